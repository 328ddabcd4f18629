{{/* What all services are told alike: the data of the ConfigMap. */}}
{{- define "throughline.config" -}}
THROUGHLINE_HOST: "0.0.0.0"
THROUGHLINE_PORT: "50051"
THROUGHLINE_METRICS_HOST: "0.0.0.0"
THROUGHLINE_METRICS_PORT: "9464"
THROUGHLINE_DEFAULT_ROLE: {{ .Values.auth.defaultRole }}
THROUGHLINE_LOG_LEVEL: {{ .Values.logLevel }}
THROUGHLINE_NATS_URL: {{ include "throughline.natsUrl" . | quote }}
THROUGHLINE_NATS_REPLICAS: {{ .Values.nats.replicas | quote }}
THROUGHLINE_STREAM_PREFIX: {{ .Values.nats.streamPrefix }}
{{- if .Values.nats.caSecret }}
THROUGHLINE_NATS_CA_FILE: /etc/throughline/nats-ca/ca.crt
{{- end }}
{{- if .Values.nats.certificateSecret }}
THROUGHLINE_NATS_CERT_FILE: /etc/throughline/nats-certificate/tls.crt
THROUGHLINE_NATS_KEY_FILE: /etc/throughline/nats-certificate/tls.key
{{- end }}
PERSISTENCE_MODULE: eventsourcing.postgres
POSTGRES_HOST: {{ include "throughline.postgresHost" . | quote }}
POSTGRES_PORT: {{ .Values.postgres.port | quote }}
POSTGRES_DBNAME: {{ .Values.postgres.database | quote }}
# libpq's own, for every connection that a service makes.
PGSSLMODE: {{ .Values.postgres.sslMode }}
{{- if .Values.postgres.caSecret }}
PGSSLROOTCERT: /etc/throughline/postgres/ca.crt
{{- end }}
{{- with .Values.otlpEndpoint }}
OTEL_EXPORTER_OTLP_ENDPOINT: {{ . | quote }}
{{- end }}
{{- end }}

{{/* In how many partitions the services' logs stand. With "to", as they will. (dict "root" $) */}}
{{- define "throughline.partitionsEnv" -}}
{{- with include "throughline.partitioning" . }}
- {name: THROUGHLINE_PARTITIONS, value: {{ . | quote }}}
{{- end }}
{{- end }}

{{/* Where ingestion's partitions are called, by index: each at the Service that leads to its pods alone. */}}
{{- define "throughline.peersEnv" -}}
{{- $name := include "throughline.name" .root }}
{{- $numbers := include "throughline.partitions" (dict "root" .root "service" "ingestion") | fromYamlArray }}
{{- if gt (len $numbers) 1 }}
{{- $peers := list }}
{{- range $numbers }}{{ $peers = append $peers (printf "%s-ingestion-%v:50051" $name .) }}{{ end }}
- {name: THROUGHLINE_INGESTION_PEERS, value: {{ join "," $peers | quote }}}
{{- end }}
{{- end }}

{{/* One service's role, password and schema; or the owner's role in the PostgreSQL of this chart.
(dict "root" $ "service" "identity" "settings" ... "asOwner" "") */}}
{{- define "throughline.storeEnv" -}}
{{- $values := .root.Values }}
{{- $user := include "throughline.postgresUser" . }}
{{- $password := include "throughline.postgresPassword" . | fromYaml }}
{{- if .asOwner }}
{{- $user = $values.postgres.user }}
{{- $password = dict "name" (include "throughline.postgresSecret" .root) "key" $values.postgres.passwordKey }}
{{- end }}
- {name: POSTGRES_USER, value: {{ $user | quote }}}
- {name: POSTGRES_SCHEMA, value: {{ printf "%s%s" $values.postgres.schemaPrefix .service | quote }}}
- name: POSTGRES_PASSWORD
  valueFrom:
    secretKeyRef: {name: {{ $password.name }}, key: {{ $password.key }}}
{{- end }}

{{/* What a service shows the bus, as YAML: `secret` ("": nothing), and `key` with a password of `user`, or with credentials where there
is no user. (dict "root" $ "settings" ...) */}}
{{- define "throughline.busUser" -}}
{{- $nats := .root.Values.nats }}
{{- $own := .settings.nats }}
{{- $made := ternary (printf "%s-nats" (include "throughline.name" .root)) "" (or $nats.enabled (ne .root.Values.externalSecrets.nats "")) }}
{{- $user := $own.user | default (ternary (printf "%s_%s" (lower $nats.streamPrefix) .settings.service) "" $nats.enabled) }}
{{- $key := ternary ($own.passwordKey | default .settings.service) ($own.credentialsKey | default (printf "%s.creds" .settings.service)) (ne $user "") }}
{{- dict "secret" ($own.existingSecret | default $nats.existingSecret | default $made) "user" $user "key" $key | toYaml }}
{{- end }}

{{/* The same as variables that begin so. (dict "root" $ "settings" ... "prefix" "THROUGHLINE") */}}
{{- define "throughline.busEnv" -}}
{{- $bus := include "throughline.busUser" . | fromYaml }}
{{- if and $bus.secret $bus.user }}
- {name: {{ .prefix }}_NATS_USER, value: {{ $bus.user | quote }}}
- name: {{ .prefix }}_NATS_PASSWORD
  valueFrom:
    secretKeyRef: {name: {{ $bus.secret }}, key: {{ $bus.key }}}
{{- else if $bus.secret }}
- {name: {{ .prefix }}_NATS_CREDENTIALS, value: /etc/throughline/nats-{{ .settings.service }}/user.creds}
{{- end }}
{{- end }}

{{/* Files of those services' users that have some: by name, the source. (dict "root" $ "services" (list "identity")) */}}
{{- define "throughline.busFiles" -}}
{{- $root := .root }}
{{- range .services }}
{{- $settings := include "throughline.settings" (dict "root" $root "service" .) | fromYaml }}
{{- $bus := include "throughline.busUser" (dict "root" $root "settings" $settings) | fromYaml }}
{{- if and $bus.secret (not $bus.user) }}
nats-{{ . }}: {secret: {secretName: {{ $bus.secret }}, defaultMode: 0440, items: [{key: {{ $bus.key }}, path: user.creds}]}}
{{- end }}
{{- end }}
{{- end }}

{{- define "throughline.busMounts" -}}
{{- range $file, $_ := include "throughline.busFiles" . | fromYaml }}
- {name: {{ $file }}, mountPath: /etc/throughline/{{ $file }}, readOnly: true}
{{- end }}
{{- end }}

{{- define "throughline.busVolumes" -}}
{{- range $file, $source := include "throughline.busFiles" . | fromYaml }}
- {{ merge (dict "name" $file) $source | toJson }}
{{- end }}
{{- end }}

{{/* What a service that seals personal values is told of its keys. */}}
{{- define "throughline.sealingEnv" -}}
{{- $values := .root.Values }}
{{- $keys := include "throughline.keysSecret" .root }}
- name: THROUGHLINE_KEY_ENCRYPTION_KEY
  valueFrom:
    secretKeyRef: {name: {{ $keys }}, key: key-encryption-key}
- name: THROUGHLINE_RETIRED_KEY_ENCRYPTION_KEYS
  valueFrom:
    secretKeyRef: {name: {{ $keys }}, key: retired-key-encryption-keys, optional: true}
- name: THROUGHLINE_FORGOTTEN_LIST
  valueFrom:
    secretKeyRef: {name: {{ $keys }}, key: forgotten-list, optional: true}
# The key store's URL has no password in it, which could hold signs that mean something there: libpq takes PGPASSWORD.
- {name: PGPASSWORD, value: $(POSTGRES_PASSWORD)}
- {name: THROUGHLINE_KEY_STORE, value: {{ printf "postgresql://%s@%s:%v/%s" (include "throughline.postgresUser" . | urlquery) (include "throughline.postgresHost" .root) $values.postgres.port ($values.postgres.database | urlquery) | quote }}}
- {name: THROUGHLINE_KEY_STORE_SCHEMA, value: {{ printf "%sthroughline_keys" $values.postgres.schemaPrefix | quote }}}
{{- end }}

{{/* Files that connections need, and where they are. */}}
{{- define "throughline.connectionMounts" -}}
{{- with .Values.nats.caSecret }}
- {name: nats-ca, mountPath: /etc/throughline/nats-ca, readOnly: true}
{{- end }}
{{- with .Values.nats.certificateSecret }}
- {name: nats-certificate, mountPath: /etc/throughline/nats-certificate, readOnly: true}
{{- end }}
{{- with .Values.postgres.caSecret }}
- {name: postgres-ca, mountPath: /etc/throughline/postgres, readOnly: true}
{{- end }}
{{- end }}

{{- define "throughline.connectionVolumes" -}}
{{- with .Values.nats.caSecret }}
- name: nats-ca
  secret: {secretName: {{ . }}, defaultMode: 0444, items: [{key: ca.crt, path: ca.crt}]}
{{- end }}
{{- with .Values.nats.certificateSecret }}
- name: nats-certificate
  secret: {secretName: {{ . }}, defaultMode: 0440}
{{- end }}
{{- with .Values.postgres.caSecret }}
- name: postgres-ca
  secret: {secretName: {{ . }}, defaultMode: 0444, items: [{key: ca.crt, path: ca.crt}]}
{{- end }}
{{- end }}

{{/* How callers are known, and what they may offer. (dict "root" $ "service" "identity") Files are mounted whole, so that what is
renewed reaches running pods. */}}
{{- define "throughline.callingEnv" -}}
{{- $values := .root.Values }}
{{- if $values.tls.enabled }}
- {name: THROUGHLINE_TLS_CERT_FILE, value: /etc/throughline/tls/tls.crt}
- {name: THROUGHLINE_TLS_KEY_FILE, value: /etc/throughline/tls/tls.key}
{{- if eq $values.tls.clientCertificates "required" }}
- {name: THROUGHLINE_TLS_CA_FILE, value: /etc/throughline/tls/ca.crt}
{{- end }}
- {name: THROUGHLINE_TLS_CLIENT_CERTIFICATES, value: {{ $values.tls.clientCertificates | quote }}}
# For probes, which cannot speak TLS; health and nothing else.
- {name: THROUGHLINE_HEALTH_PORT, value: "50061"}
{{- end }}
{{- with $values.auth }}
{{- if .by }}
- {name: THROUGHLINE_AUTH, value: {{ join "," .by | quote }}}
{{- range $variable, $value := dict "ISSUER" .issuer "AUDIENCE" .audience "JWKS" .jwks }}
{{- if and $value (has "jwt" $values.auth.by) }}
- {name: THROUGHLINE_AUTH_{{ $variable }}, value: {{ $value | quote }}}
{{- end }}
{{- end }}
{{- if has "jwt" .by }}
- {name: THROUGHLINE_AUTH_ROLES_CLAIM, value: {{ .rolesClaim | quote }}}
- {name: THROUGHLINE_AUTH_SOURCES_CLAIM, value: {{ .sourcesClaim | quote }}}
{{- end }}
{{- if .keySecret }}
- {name: THROUGHLINE_AUTH_KEY_FILE, value: /etc/throughline/auth-key/key}
{{- end }}
{{- if .caSecret }}
- {name: THROUGHLINE_AUTH_CA_FILE, value: /etc/throughline/auth-ca/ca.crt}
{{- end }}
{{- if .callers }}
- {name: THROUGHLINE_AUTH_CALLERS_FILE, value: /etc/throughline/calling/callers.json}
{{- end }}
{{- end }}
{{- end }}
{{- if eq .service "ingestion" }}
{{- with $values.quotas }}
- {name: INGESTION_QUOTA_EVENTS, value: {{ .events | int64 | quote }}}
- {name: INGESTION_QUOTA_BYTES, value: {{ .bytes | int64 | quote }}}
- {name: INGESTION_QUOTA_BURST_SECONDS, value: {{ .burstSeconds | quote }}}
{{- if .sources }}
- {name: INGESTION_QUOTAS_FILE, value: /etc/throughline/calling/quotas.json}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* The same, as mounts or as volumes: by name, the path and the source. */}}
{{- define "throughline.callingFiles" -}}
{{- $values := .root.Values }}
{{- $name := include "throughline.name" .root }}
{{- if $values.tls.enabled }}
tls: {secret: {secretName: {{ $values.tls.existingSecret | default (printf "%s-%s-tls" $name .service) }}, defaultMode: 0440}}
{{- end }}
{{- if and $values.auth.by $values.auth.keySecret }}
auth-key: {secret: {secretName: {{ $values.auth.keySecret }}, defaultMode: 0440}}
{{- end }}
{{- if and $values.auth.by $values.auth.caSecret }}
auth-ca: {secret: {secretName: {{ $values.auth.caSecret }}, defaultMode: 0444}}
{{- end }}
{{- if include "throughline.calling" .root }}
calling: {configMap: {name: {{ $name }}-calling}}
{{- end }}
{{- end }}

{{- define "throughline.calling" -}}
{{- if .Values.auth.callers }}
callers.json: {{ toJson .Values.auth.callers | quote }}
{{- end }}
{{- if .Values.quotas.sources }}
quotas.json: {{ toJson .Values.quotas.sources | quote }}
{{- end }}
{{- end }}

{{/* Over zones and nodes, as well as can be, unless somebody says otherwise. */}}
{{- define "throughline.spread" -}}
{{- $selector := dict "matchLabels" (include "throughline.selector" .scope | fromYaml) }}
{{- $constraints := .settings.topologySpreadConstraints | default (list
      (dict "maxSkew" 1 "topologyKey" "topology.kubernetes.io/zone" "whenUnsatisfiable" "ScheduleAnyway" "matchLabelKeys" (list "pod-template-hash"))
      (dict "maxSkew" 1 "topologyKey" "kubernetes.io/hostname" "whenUnsatisfiable" "ScheduleAnyway" "matchLabelKeys" (list "pod-template-hash"))) }}
{{- range $constraints }}
{{ list (merge (deepCopy .) (dict "labelSelector" $selector)) | toYaml }}
{{- end }}
{{- end }}
