{{- define "throughline.name" -}}
{{- if contains "throughline" .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-throughline" .Release.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{/* Labels that select: called with (dict "root" $ "component" "identity"). */}}
{{- define "throughline.selector" -}}
app.kubernetes.io/name: throughline
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "throughline.labels" -}}
{{ include "throughline.selector" . }}
app.kubernetes.io/part-of: throughline
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "throughline.keysSecret" -}}
{{ .Values.keys.existingSecret | default (printf "%s-keys" (include "throughline.name" .)) }}
{{- end }}

{{- define "throughline.postgresSecret" -}}
{{ .Values.postgres.existingSecret | default (printf "%s-postgres" (include "throughline.name" .)) }}
{{- end }}

{{- define "throughline.natsUrl" -}}
{{- if .Values.nats.enabled -}}
nats://{{ include "throughline.name" . }}-nats:4222
{{- else -}}
{{ .Values.nats.url | required "nats.enabled is false: set nats.url to where JetStream is, e.g. nats://nats.messaging:4222" }}
{{- end -}}
{{- end }}

{{- define "throughline.postgresHost" -}}
{{- if .Values.postgres.enabled -}}
{{ include "throughline.name" . }}-postgres
{{- else -}}
{{ .Values.postgres.host | required "postgres.enabled is false: set postgres.host to where PostgreSQL is" }}
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
