{{- define "fedkube.fullname" -}}
{{- if contains "fedkube" .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{ else }}{{ printf "%s-fedkube" .Release.Name | trunc 50 | trimSuffix "-" }}{{ end }}
{{- end }}

{{/* Of what has no namespace: releases of one name in two of them are two. */}}
{{- define "fedkube.clusterName" -}}
{{ printf "%s-%s" .Release.Namespace (include "fedkube.fullname" .) }}
{{- end }}

{{- define "fedkube.selector" -}}
app.kubernetes.io/name: fedkube
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: coordinator
{{- end }}

{{- define "fedkube.testSelector" -}}
app.kubernetes.io/name: fedkube
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: test
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

{{/*
policy/v1 is there since 1.21, and v1beta1 until 1.24. By the version, and not by .Capabilities.APIVersions:
where there is no cluster to ask, Helm takes those of its own newest release for granted.
*/}}
{{- define "fedkube.policy" -}}
{{- if semverCompare ">=1.21-0" .Capabilities.KubeVersion.Version }}policy/v1{{ else }}policy/v1beta1{{ end }}
{{- end }}

{{/* Names for what to ask and where to go, as a NetworkPolicy's egress has them. */}}
{{- define "fedkube.egress" -}}
- ports:
    {{- range .Values.networkPolicy.dnsPorts }}
    - {port: {{ . }}, protocol: UDP}
    - {port: {{ . }}, protocol: TCP}
    {{- end }}
- ports:
    {{- range .Values.networkPolicy.apiServerPorts }}
    - {port: {{ . }}, protocol: TCP}
    {{- end }}
  {{- with .Values.networkPolicy.apiServerCidrs }}
  to:
    {{- range . }}
    - ipBlock: {cidr: {{ . | quote }}}
    {{- end }}
  {{- end }}
{{- end }}

{{/* What each pod of the chart has for its security: Pod Security's standard `restricted`, and more. */}}
{{- define "fedkube.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile: {type: RuntimeDefault}
{{- end }}
{{- define "fedkube.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{/* What the schema cannot say, because it is about several values, or about the cluster. */}}
{{- define "fedkube.check" -}}
{{- $spaces := .Values.runs.namespaces }}
{{- if ne (len $spaces) (len (uniq $spaces)) }}
{{- fail (printf "runs.namespaces names a namespace twice: %s" (join ", " $spaces)) }}
{{- end }}
{{- $policy := .Values.networkPolicy }}
{{- if and $policy.enabled (not $policy.apiServerPorts) }}
{{- fail "networkPolicy.apiServerPorts is empty, so that the coordinator could not reach the API server: name its ports, or set networkPolicy.enabled=false" }}
{{- end }}
{{- if and $policy.denyNamespaces (not $policy.enabled) }}
{{- fail "networkPolicy.denyNamespaces would cut the coordinator off without its own policy: set networkPolicy.enabled=true as well" }}
{{- end }}
{{- $monitor := .Values.metrics.serviceMonitor }}
{{- if and $monitor.enabled $policy.enabled (not $policy.metricsFrom) }}
{{- fail "metrics.serviceMonitor.enabled is of no use while the network policy lets nobody read the metrics: say in networkPolicy.metricsFrom where Prometheus is, such as [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}}]" }}
{{- end }}
{{- if and $monitor.enabled (not $monitor.force) (not (.Capabilities.APIVersions.Has "monitoring.coreos.com/v1")) }}
{{- fail "metrics.serviceMonitor.enabled: this cluster does not have monitoring.coreos.com/v1; install the Prometheus Operator first, or set metrics.serviceMonitor.force=true" }}
{{- end }}
{{- range .Values.coordinator.env }}
{{- if or (hasPrefix "FEDKUBE_" .name) (eq "HOME" .name) }}
{{- fail (printf "coordinator.env has %s, which the chart sets itself" .name) }}
{{- end }}
{{- end }}
{{- range $name, $_ := .Values.coordinator.podLabels }}
{{- if or (hasPrefix "app.kubernetes.io/" $name) (hasPrefix "helm.sh/" $name) }}
{{- fail (printf "coordinator.podLabels has %s, which the chart sets itself" $name) }}
{{- end }}
{{- end }}
{{- end }}

{{/*
The definition is the cluster's, and stays when a release goes (crds.keep); Helm lets one release alone have
it. Helm would say so as well, but not what to do. (list $ NAME); nothing is found where there is no cluster.
*/}}
{{- define "fedkube.checkOwner" -}}
{{- $release := (first .).Release }}
{{- $name := last . }}
{{- $there := lookup "apiextensions.k8s.io/v1" "CustomResourceDefinition" "" $name }}
{{- if $there }}
{{- $notes := $there.metadata.annotations | default dict }}
{{- $owner := printf "%s/%s" (get $notes "meta.helm.sh/release-namespace") (get $notes "meta.helm.sh/release-name") }}
{{- if ne $owner (printf "%s/%s" $release.Namespace $release.Name) }}
{{- $whose := ternary "was not installed by Helm" (printf "belongs to the release %s" $owner) (eq $owner "/") }}
{{- fail (printf "the definition %s is there and %s: set crds.enabled=false to use it as it is, or, if that release is gone, hand it over: kubectl annotate --overwrite crd %s meta.helm.sh/release-namespace=%s meta.helm.sh/release-name=%s && kubectl label --overwrite crd %s app.kubernetes.io/managed-by=Helm" $name $whose $name $release.Namespace $release.Name $name) }}
{{- end }}
{{- end }}
{{- end }}
