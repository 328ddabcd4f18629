{{- define "throughline.name" -}}
{{- if .Values.fullnameOverride -}}
{{ .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains "throughline" .Release.Name -}}
{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-throughline" .Release.Name | trunc 40 | trimSuffix "-" }}
{{- end -}}
{{- end }}

{{/* Labels that select: called with (dict "root" $ "component" "identity"), and with "partition", a number, where a component has
several. They are immutable in a workload. */}}
{{- define "throughline.selector" -}}
app.kubernetes.io/name: throughline
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- if hasKey . "partition" }}
throughline/partition: {{ .partition | quote }}
{{- end }}
{{- end }}

{{- define "throughline.labels" -}}
{{ include "throughline.steadyLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{/* Those that no new version of the chart changes: for pods that need not restart for one. (dict "root" $ "component" "nats") */}}
{{- define "throughline.steadyLabels" -}}
{{ include "throughline.selector" . }}
app.kubernetes.io/part-of: throughline
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* A service's settings: those of its own, and the defaults for the rest, as YAML. (dict "root" $ "service" "identity") */}}
{{- define "throughline.settings" -}}
{{- $own := get .root.Values.services .service | default dict }}
{{- $settings := deepCopy .root.Values.defaults }}
{{- range $key, $value := $own }}
{{- if and (kindIs "map" $value) (kindIs "map" (get $settings $key)) }}
{{- $inner := get $settings $key }}
{{- range $name, $part := $value }}
{{- $_ := set $inner $name $part }}
{{- end }}
{{- else }}
{{- $_ := set $settings $key $value }}
{{- end }}
{{- end }}
{{- $_ := set $settings "service" .service }}
{{- toYaml $settings }}
{{- end }}

{{/* How many partitions a service had and has, by generation, as YAML. (dict "root" $ "service" "ingestion") */}}
{{- define "throughline.generations" -}}
{{- (get .root.Values.services .service | default dict).partitions | default (list 1) | toJson }}
{{- end }}

{{/* The numbers of a service's partitions in force, as YAML: of each the generation times 100, and its index. */}}
{{- define "throughline.partitions" -}}
{{- $counts := include "throughline.generations" . | fromYamlArray }}
{{- $numbers := list }}
{{- range $index := until (int (last $counts)) }}
{{- $numbers = append $numbers (add (mul 100 (sub (len $counts) 1)) $index) }}
{{- end }}
{{- toJson $numbers }}
{{- end }}

{{/* The same for all services, as THROUGHLINE_PARTITIONS says it; "" where none was ever parted. With "to", as it will be.
(dict "root" $) */}}
{{- define "throughline.partitioning" -}}
{{- $counts := include "throughline.generations" (dict "root" .root "service" "ingestion") | fromYamlArray }}
{{- if .to }}{{ $counts = append $counts .to }}{{ end }}
{{- if ne (toJson $counts) "[1]" }}
{{- $texts := list }}
{{- range $counts }}{{ $texts = append $texts (int . | toString) }}{{ end -}}
ingestion={{ join ":" $texts }}
{{- end }}
{{- end }}

{{/* (dict "root" $ "image" "identity" "given" $settings.image) */}}
{{- define "throughline.image" -}}
{{- $image := .root.Values.image }}
{{- $name := printf "%s-%s" $image.repository .image }}
{{- if .given }}{{ .given }}
{{- else if get $image.digests .image }}{{ $name }}@{{ get $image.digests .image }}
{{- else }}{{ $name }}:{{ $image.tag | default .root.Chart.AppVersion }}
{{- end }}
{{- end }}

{{- define "throughline.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "throughline.keysSecret" -}}
{{ .Values.keys.existingSecret | default (printf "%s-keys" (include "throughline.name" .)) }}
{{- end }}

{{- define "throughline.postgresSecret" -}}
{{ .Values.postgres.existingSecret | default (printf "%s-postgres" (include "throughline.name" .)) }}
{{- end }}

{{/* The role in PostgreSQL that a service signs in as. (dict "root" $ "settings" ...) */}}
{{- define "throughline.postgresUser" -}}
{{- $postgres := .root.Values.postgres }}
{{- .settings.postgres.user | default (ternary (printf "%s_%s" $postgres.user .settings.service) $postgres.user $postgres.enabled) }}
{{- end }}

{{/* Where its password is: `name` and `key` of a secret, as YAML. (dict "root" $ "settings" ...) */}}
{{- define "throughline.postgresPassword" -}}
{{- $values := .root.Values }}
{{- $own := .settings.postgres }}
{{- $made := and $values.postgres.enabled (not (or $values.postgres.existingSecret $values.externalSecrets.postgres)) }}
{{- $secret := ternary (printf "%s-postgres-roles" (include "throughline.name" .root)) (include "throughline.postgresSecret" .root) $made }}
{{- $key := ternary .settings.service $values.postgres.passwordKey $values.postgres.enabled }}
{{- dict "name" ($own.existingSecret | default $secret) "key" ($own.passwordKey | default $key) | toYaml }}
{{- end }}

{{- define "throughline.natsUrl" -}}
{{- if .Values.nats.enabled -}}
nats://{{ include "throughline.name" . }}-nats:4222
{{- else -}}
{{ .Values.nats.url }}
{{- end -}}
{{- end }}

{{- define "throughline.postgresHost" -}}
{{- if .Values.postgres.enabled -}}
{{ include "throughline.name" . }}-postgres
{{- else -}}
{{ .Values.postgres.host }}
{{- end -}}
{{- end }}

{{- define "throughline.podSecurity" -}}
runAsNonRoot: true
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "throughline.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* The gRPC service that a service is there for. */}}
{{- define "throughline.grpcService" -}}
throughline.{{ . }}.v1.{{ title . }}Service
{{- end }}
