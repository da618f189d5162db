{{- define "fedkube.fullname" -}}
{{- if contains "fedkube" .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{ else }}{{ printf "%s-fedkube" .Release.Name | trunc 50 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "fedkube.selector" -}}
app.kubernetes.io/name: fedkube
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: coordinator
{{- end }}

{{- define "fedkube.labels" -}}
{{ include "fedkube.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "fedkube.account" -}}
{{- .Values.serviceAccount.name | default (printf "%s-coordinator" (include "fedkube.fullname" .)) }}
{{- end }}

{{/* An image's full name: dict "image" (values) "tag" (where the values have none). */}}
{{- define "fedkube.image" -}}
{{- $name := .image.repository }}
{{- if .image.registry }}{{ $name = printf "%s/%s" .image.registry .image.repository }}{{ end }}
{{- if .image.digest }}{{ $name }}@{{ .image.digest }}{{ else }}{{ $name }}:{{ .image.tag | default .tag }}{{ end }}
{{- end }}

{{- define "fedkube.namespaces" -}}
{{- join " " (.Values.runs.namespaces | default (list .Release.Namespace)) }}
{{- end }}
