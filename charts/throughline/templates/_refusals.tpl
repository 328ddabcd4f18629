{{/*
What is refused before anything is made, each with what to do. What has to do with one value alone (its type, an unknown key)
is refused by values.schema.json.
*/}}
{{- define "throughline.refusals" -}}
{{- $values := .Values }}
{{- if and (not $values.nats.enabled) (not $values.nats.url) }}
{{- fail "nats.enabled is false: set nats.url to where JetStream is, e.g. nats://nats.messaging:4222" }}
{{- end }}
{{- if and $values.nats.enabled $values.nats.url }}
{{- fail "nats.url is given, but nats.enabled is true and this chart would run a NATS of its own: set nats.enabled to false, or take nats.url out" }}
{{- end }}
{{- if and $values.nats.enabled (gt (int $values.nats.replicas) 1) }}
{{- fail (printf "nats.replicas is %v, but nats.enabled runs one server: leave it at 1, or set nats.enabled to false and nats.url to a cluster of three" $values.nats.replicas) }}
{{- end }}
{{- if and $values.externalSecrets.nats $values.nats.existingSecret }}
{{- fail "externalSecrets.nats and nats.existingSecret are both given: what services show NATS can come from one place only" }}
{{- end }}
{{- if and (not $values.postgres.enabled) (not $values.postgres.host) }}
{{- fail "postgres.enabled is false: set postgres.host to where PostgreSQL is" }}
{{- end }}
{{- if and $values.postgres.enabled $values.postgres.host }}
{{- fail "postgres.host is given, but postgres.enabled is true and this chart would run a PostgreSQL of its own: set postgres.enabled to false, or take postgres.host out" }}
{{- end }}
{{- if and (not $values.postgres.enabled) (not $values.postgres.existingSecret) (not $values.externalSecrets.postgres) }}
{{- range $service, $own := $values.services }}
{{- if not (dig "postgres" "existingSecret" "" ($own | default dict)) }}
{{- fail (printf "postgres.enabled is false and %s has no password: set postgres.existingSecret, or services.%s.postgres.existingSecret" $service $service) }}
{{- end }}
{{- end }}
{{- end }}
{{- if and (has $values.postgres.sslMode (list "verify-ca" "verify-full")) (not $values.postgres.caSecret) }}
{{- fail (printf "postgres.sslMode is %s: set postgres.caSecret to the secret whose ca.crt signed the server's certificate" $values.postgres.sslMode) }}
{{- end }}
{{- if and $values.postgres.enabled (ne $values.postgres.sslMode "prefer") }}
{{- fail (printf "postgres.sslMode is %s, but the quick-start PostgreSQL has no certificate: leave it at prefer, or set postgres.enabled to false" $values.postgres.sslMode) }}
{{- end }}
{{- if $values.externalSecrets.enabled }}
{{- if not $values.externalSecrets.store.name }}
{{- fail "externalSecrets.enabled is true: set externalSecrets.store.name to a SecretStore or ClusterSecretStore" }}
{{- end }}
{{- if not (or $values.externalSecrets.keys $values.externalSecrets.postgres $values.externalSecrets.nats) }}
{{- fail "externalSecrets.enabled is true, but nothing is to be fetched: set externalSecrets.keys, externalSecrets.postgres or externalSecrets.nats" }}
{{- end }}
{{- if and $values.externalSecrets.keys $values.keys.existingSecret }}
{{- fail "externalSecrets.keys and keys.existingSecret are both given: the keys can come from one place only" }}
{{- end }}
{{- if and $values.externalSecrets.postgres $values.postgres.existingSecret }}
{{- fail "externalSecrets.postgres and postgres.existingSecret are both given: the passwords can come from one place only" }}
{{- end }}
{{- else if or $values.externalSecrets.keys $values.externalSecrets.postgres $values.externalSecrets.nats }}
{{- fail "externalSecrets.keys, externalSecrets.postgres or externalSecrets.nats is given, but externalSecrets.enabled is false: nothing would be fetched" }}
{{- end }}
{{- if and $values.monitoring.serviceMonitor.enabled $values.monitoring.podMonitor.enabled }}
{{- fail "monitoring.serviceMonitor and monitoring.podMonitor are both enabled: every pod would be scraped twice, and counted twice; choose one" }}
{{- end }}
{{- if and (or $values.preflight.enabled $values.preflight.onStart) (not $values.nats.enabled) (not $values.nats.monitorUrls) }}
{{- fail "preflight needs nats.monitorUrls: whether JetStream syncs before it acknowledges can only be read where its servers tell of themselves, e.g. [http://nats-headless.messaging:8222]; without production, preflight.enabled and preflight.onStart may be set to false" }}
{{- end }}
{{- if and $values.prepare.enabled $values.postgres.enabled }}
{{- fail "prepare.enabled is true, but postgres.enabled runs a PostgreSQL that is prepared anyway: set one of them to false" }}
{{- end }}
{{- if and $values.prepare.enabled (not $values.prepare.adminSecret) }}
{{- fail "prepare.enabled is true: set prepare.adminSecret to the secret with the password of prepare.adminUser" }}
{{- end }}
{{- if and $values.prepare.enabled $values.externalSecrets.enabled }}
{{- fail "prepare.enabled and externalSecrets.enabled are both true: schemas are made before the release, and its ExternalSecrets, are there; fetch the secrets beforehand and name them, or make the schemas otherwise" }}
{{- end }}
{{- if and $values.tls.enabled (not $values.tls.existingSecret) (not $values.certificates.enabled) }}
{{- fail "tls.enabled is true: set tls.existingSecret to a secret with tls.crt, tls.key and ca.crt, or certificates.enabled where cert-manager makes them" }}
{{- end }}
{{- if and $values.certificates.enabled (not $values.tls.enabled) }}
{{- fail "certificates.enabled is true, but tls.enabled is false: the services would not use them; set tls.enabled" }}
{{- end }}
{{- if and $values.certificates.enabled (not $values.certificates.issuerRef.name) }}
{{- fail "certificates.enabled is true: set certificates.issuerRef.name to the issuer that signs" }}
{{- end }}
{{- with $values.auth }}
{{- if and (has "certificate" .by) (not (and $values.tls.enabled (eq $values.tls.clientCertificates "required"))) }}
{{- fail "auth.by has certificate: set tls.enabled, and tls.clientCertificates to required, or nobody shows one" }}
{{- end }}
{{- if and (has "jwt" .by) (not (and .issuer .audience)) }}
{{- fail "auth.by has jwt: set auth.issuer and auth.audience, or tokens of others would do" }}
{{- end }}
{{- if and (has "jwt" .by) (not $values.tls.enabled) (not .provedElsewhere) }}
{{- fail "auth.by has jwt, but tls.enabled is false: tokens would travel in the clear; set tls.enabled, or auth.provedElsewhere where a mesh guards the way" }}
{{- end }}
{{- if and .jwks .keySecret }}
{{- fail "auth.jwks and auth.keySecret are both given: the keys of tokens can come from one place only" }}
{{- end }}
{{- if and (not .by) (or .issuer .audience .jwks .keySecret .caSecret .callers) }}
{{- fail "auth says how callers prove themselves, but auth.by is empty: nobody would be asked to; set it to [jwt], [certificate] or both" }}
{{- end }}
{{- if and (eq (join "," .by) "jwt") $values.helmTest.enabled (not $values.helmTest.tokenSecret) }}
{{- fail "auth.by is jwt, and helm test has no token: set helmTest.tokenSecret, or helmTest.enabled to false" }}
{{- end }}
{{- end }}
{{- if and $values.nats.certificateSecret (not $values.nats.caSecret) }}
{{- fail "nats.certificateSecret is given without nats.caSecret: name the secret whose ca.crt vouches for the bus" }}
{{- end }}
{{- if and $values.route.enabled (not $values.route.parentRefs) }}
{{- fail "route.enabled is true: set route.parentRefs to the Gateway that takes the calls, e.g. [{name: public, namespace: gateways}]" }}
{{- end }}
{{- if and $values.ingress.enabled (not $values.ingress.host) }}
{{- fail "ingress.enabled is true: set ingress.host; without a host name the Ingress would take every other host's gRPC calls too" }}
{{- end }}
{{- if $values.production }}
{{- if and (not $values.auth.by) (eq $values.auth.defaultRole "admin") }}
{{- fail "production is true, but auth.defaultRole is admin: whoever reaches a service and names no role could do everything; set it to none" }}
{{- end }}
{{- if and (not (and $values.auth.by $values.tls.enabled)) (not $values.auth.provedElsewhere) }}
{{- fail "production is true, but callers are believed or called in the clear: set auth.by and tls.enabled, or auth.provedElsewhere where a mesh or the like does both" }}
{{- end }}
{{- if $values.development.sync }}
{{- fail "production is true, but development.sync lets code be written into running pods: set it to false" }}
{{- end }}
{{- if not (and $values.preflight.enabled $values.preflight.onStart) }}
{{- fail "production is true, but preflight.enabled or preflight.onStart is false: nothing would keep the services from a bus or a store that loses what it acknowledges; set both to true" }}
{{- end }}
{{- if $values.nats.enabled }}
{{- fail "production is true, but nats.enabled runs a single NATS on a single volume: set nats.enabled to false and nats.url to a JetStream cluster of three" }}
{{- end }}
{{- if $values.postgres.enabled }}
{{- fail "production is true, but postgres.enabled runs a single PostgreSQL without backups: set postgres.enabled to false and postgres.host to one that is managed" }}
{{- end }}
{{- if lt (int $values.nats.replicas) 3 }}
{{- fail (printf "production is true, but nats.replicas is %v: a stream on one server is away with it; set nats.replicas to 3" $values.nats.replicas) }}
{{- end }}
{{- if not (or $values.keys.existingSecret $values.externalSecrets.keys) }}
{{- fail "production is true, but the chart would make the keys: without a copy elsewhere their loss is for ever; make a secret (docs/operating.md) and set keys.existingSecret, or externalSecrets.keys" }}
{{- end }}
{{- if not (has $values.postgres.sslMode (list "require" "verify-ca" "verify-full")) }}
{{- fail (printf "production is true, but postgres.sslMode is %s, which may send passwords and personal values in the clear: set it to verify-full" $values.postgres.sslMode) }}
{{- end }}
{{- if and (has $values.image.tag (list "latest" "main" "edge")) (lt (len $values.image.digests) 6) }}
{{- fail (printf "production is true, but image.tag is %s, which moves: a pod that restarts could run other code than its neighbours; set a version, or image.digests of all six" $values.image.tag) }}
{{- end }}
{{- end }}
{{- if dig "partitions" "" $values.defaults }}
{{- fail "defaults.partitions is given: each service's log is parted by itself; set services.ingestion.partitions" }}
{{- end }}
{{- $whole := dict "identity" "who may be one client is decided in one order" "journey" "what it answers about journeys counts over all clients"
      "feedback" "a department's inbox is over all clients" "scoring" "scorecards count over all clients" }}
{{- range $service, $why := $whole }}
{{- $counts := include "throughline.generations" (dict "root" $ "service" $service) }}
{{- if ne $counts "[1]" }}
{{- fail (printf "services.%s.partitions is %s: it has exactly one partition, because %s; take it out, of the services ingestion alone can have several" $service $counts $why) }}
{{- end }}
{{- end }}
{{- $counts := include "throughline.generations" (dict "root" $ "service" "ingestion") | fromYamlArray }}
{{- if ne (int (first $counts)) 1 }}
{{- fail (printf "services.ingestion.partitions is %s, but every installation begins with one partition: begin the list with 1, and change it as docs/partitions.md says" (toJson $counts)) }}
{{- end }}
{{- $to := int $values.partitioning.to }}
{{- if and (gt $to 0) (eq $to (int (last $counts))) }}
{{- fail (printf "partitioning.to is %d, and services.ingestion.partitions says that ingestion has %d: give another number, or, where the change is made, set partitioning.to to 0" $to $to) }}
{{- end }}
{{- if gt (int (last $counts)) 1 }}
{{- if (include "throughline.settings" (dict "root" $ "service" "ingestion") | fromYaml).autoscaling.enabled }}
{{- fail "ingestion has several partitions, and autoscaling.enabled: an autoscaler scales one log's pods, not several; set services.ingestion.autoscaling.enabled to false, and replicas for each partition" }}
{{- end }}
{{- if and $values.tls.enabled (ne $values.tls.clientCertificates "required") }}
{{- fail "ingestion has several partitions, which call each other over TLS and must know whom they call: set tls.clientCertificates to required, so that the ca.crt is given to them" }}
{{- end }}
{{- with $values.auth }}
{{- if and .by (not (has "certificate" .by)) }}
{{- fail "ingestion has several partitions, which call each other and prove themselves by certificates of the role service: add certificate to auth.by (and set tls.enabled, and tls.clientCertificates to required)" }}
{{- end }}
{{- $peers := list }}
{{- range $caller, $about := .callers }}
{{- if has "service" (dig "roles" (list) $about) }}{{ $peers = append $peers $caller }}{{ end }}
{{- end }}
{{- if and .callers (not $peers) }}
{{- fail "ingestion has several partitions, which call each other, but auth.callers knows no certificate of a service: add that of ingestion, with roles [service]" }}
{{- end }}
{{- end }}
{{- end }}
{{- $users := dict }}
{{- range $service := keys $values.services | sortAlpha }}
{{- $settings := include "throughline.settings" (dict "root" $ "service" $service) | fromYaml }}
{{- $bus := include "throughline.busUser" (dict "root" $ "settings" $settings) | fromYaml }}
{{- if and $bus.user $settings.nats.credentialsKey }}
{{- fail (printf "%s: nats.credentialsKey is given, but it signs in to NATS as %s, with a password: take one of them out" $service $bus.user) }}
{{- end }}
{{- if and $settings.nats.user (not $bus.secret) }}
{{- fail (printf "%s: nats.user is %s, but no secret has its password: set nats.existingSecret" $service $bus.user) }}
{{- end }}
{{- if and $values.postgres.enabled (eq (include "throughline.postgresUser" (dict "root" $ "settings" $settings)) $values.postgres.user) }}
{{- fail (printf "%s: postgres.user is %s, the owner of this chart's PostgreSQL, who may do everything in it: take it out, or give it another" $service $values.postgres.user) }}
{{- end }}
{{- if and $values.production (not $values.nats.sharedUser) }}
{{- if not $bus.secret }}
{{- fail (printf "production is true, but %s shows NATS nothing by which it is known: set nats.existingSecret to a secret with credentials of a user for each service (`throughline bus permissions` says what each may), or nats.sharedUser where that is meant" $service) }}
{{- end }}
{{- $other := get $users (toJson $bus) }}
{{- if $other }}
{{- fail (printf "production is true, but %s and %s are the same user of NATS: what one of them may the other may, too; give each its own (services.%s.nats, and what `throughline bus permissions` says), or set nats.sharedUser where that is meant" $other $service $service) }}
{{- end }}
{{- $_ := set $users (toJson $bus) $service }}
{{- end }}
{{- $spoken := int (add $settings.preStopSeconds $settings.drainSeconds 10) }}
{{- if lt (int $settings.terminationGracePeriodSeconds) (int (add $spoken 5)) }}
{{- fail (printf "%s: terminationGracePeriodSeconds is %v, but preStopSeconds, drainSeconds and ten for the writer take %d of them: give at least %d, or calls under way are cut" $service $settings.terminationGracePeriodSeconds $spoken (add $spoken 5)) }}
{{- end }}
{{- with $settings.autoscaling }}
{{- if and .enabled (gt (int .minReplicas) (int .maxReplicas)) }}
{{- fail (printf "%s: autoscaling.minReplicas is %v and maxReplicas %v: the least cannot be above the most" $service .minReplicas .maxReplicas) }}
{{- end }}
{{- if and .enabled (gt (int .lagMessages) 0) (not $values.keda.enabled) }}
{{- fail (printf "%s: autoscaling.lagMessages is %v, but only KEDA knows the lag: set keda.enabled and keda.prometheusAddress, or lagMessages to 0" $service .lagMessages) }}
{{- end }}
{{- if and .enabled (gt (int .lagMessages) 0) (not $values.keda.prometheusAddress) }}
{{- fail "keda.enabled is true and a service scales by lag: set keda.prometheusAddress to the Prometheus that has the lag" }}
{{- end }}
{{- end }}
{{- range $settings.extraEnv }}
{{- if eq .name "THROUGHLINE_TEST_ONLY_UNSAFE_DURABILITY" }}
{{- fail (printf "%s: extraEnv sets %s: with it acknowledged events may be lost; it is for tests on throw-away data" $service .name) }}
{{- end }}
{{- if has .name (include "throughline.ownVariables" $ | fromYamlArray) }}
{{- fail (printf "%s: extraEnv sets %s, which the chart sets from its values: change it there" $service .name) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "throughline.ownVariables" -}}
[THROUGHLINE_HOST, THROUGHLINE_PORT, THROUGHLINE_METRICS_HOST, THROUGHLINE_METRICS_PORT, THROUGHLINE_DRAIN_SECONDS,
 THROUGHLINE_GRACE_SECONDS, THROUGHLINE_DEFAULT_ROLE, THROUGHLINE_LOG_LEVEL, THROUGHLINE_NATS_URL, THROUGHLINE_NATS_CREDENTIALS,
 THROUGHLINE_NATS_USER, THROUGHLINE_NATS_PASSWORD, THROUGHLINE_NATS_PASSWORD_FILE,
 THROUGHLINE_PARTITIONS, THROUGHLINE_PARTITION, THROUGHLINE_INGESTION_PEERS,
 THROUGHLINE_NATS_REPLICAS, THROUGHLINE_STREAM_PREFIX, THROUGHLINE_KEY_STORE, THROUGHLINE_KEY_STORE_SCHEMA,
 PERSISTENCE_MODULE, POSTGRES_HOST, POSTGRES_PORT, POSTGRES_DBNAME, POSTGRES_USER, POSTGRES_PASSWORD, POSTGRES_SCHEMA,
 THROUGHLINE_TLS_CERT_FILE, THROUGHLINE_TLS_KEY_FILE, THROUGHLINE_TLS_CA_FILE, THROUGHLINE_TLS_CLIENT_CERTIFICATES,
 THROUGHLINE_HEALTH_PORT, THROUGHLINE_AUTH, THROUGHLINE_AUTH_ISSUER, THROUGHLINE_AUTH_AUDIENCE, THROUGHLINE_AUTH_JWKS,
 THROUGHLINE_AUTH_KEY_FILE, THROUGHLINE_AUTH_CA_FILE, THROUGHLINE_AUTH_ROLES_CLAIM, THROUGHLINE_AUTH_SOURCES_CLAIM,
 THROUGHLINE_AUTH_CALLERS_FILE, THROUGHLINE_NATS_CA_FILE, THROUGHLINE_NATS_CERT_FILE, THROUGHLINE_NATS_KEY_FILE,
 INGESTION_QUOTA_EVENTS, INGESTION_QUOTA_BYTES, INGESTION_QUOTA_BURST_SECONDS, INGESTION_QUOTAS_FILE,
 PGPASSWORD, PGSSLMODE, PGSSLROOTCERT, OTEL_EXPORTER_OTLP_ENDPOINT]
{{- end }}
