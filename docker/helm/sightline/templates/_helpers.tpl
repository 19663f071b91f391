{{- define "sightline.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "sightline.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else if contains (include "sightline.name" .) .Release.Name }}
{{- .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "sightline.name" .) | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "sightline.selector" -}}
app.kubernetes.io/name: {{ include "sightline.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "sightline.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{ include "sightline.selector" . }}
{{- end }}

{{- /* An image by digest where there is one; arguments: the image's values and the default tag. */}}
{{- define "sightline.image" -}}
{{- $image := index . 0 }}
{{- $image.repository }}:{{ $image.tag | default (index . 1) }}{{ with $image.digest }}@{{ . }}{{ end }}
{{- end }}

{{- define "sightline.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "sightline.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "sightline.productsClaim" -}}
{{- default (printf "%s-products" (include "sightline.fullname" .)) .Values.products.claim }}
{{- end }}

{{- define "sightline.http" -}}
{{- if and .Values.service.http (not .Values.tls.enabled) }}yes{{ end }}
{{- end }}

{{- define "sightline.graceSeconds" -}}
{{- add .Values.drain.preStopSeconds .Values.server.exitSeconds 15 }}
{{- end }}

{{- /* A GPU has no room for a second server beside the first, and a second pod on another node would wait for ever for a claim that
one node holds: then the old pod goes before the new one comes. */}}
{{- define "sightline.strategy" -}}
{{- $alone := or (gt (int .Values.gpu.count) 0) (and (not .Values.products.claim) (ne .Values.products.accessMode "ReadWriteMany")) -}}
type: RollingUpdate
rollingUpdate: {{ if $alone }}{maxSurge: 0, maxUnavailable: 1}{{ else }}{maxSurge: 1, maxUnavailable: 0}{{ end }}
{{- end }}

{{- /* From the start of a pod's first container to its first real inference, at most; the checks before loading take the 90 s. */}}
{{- define "sightline.rolloutSeconds" -}}
{{- add .Values.probes.prepareSeconds .Values.probes.startSeconds 90 }}
{{- end }}

{{- /* How fast both autoscalers go. */}}
{{- define "sightline.scaling" -}}
scaleUp: {stabilizationWindowSeconds: 30, policies: [{type: Pods, value: 2, periodSeconds: 60}]}
scaleDown:
  stabilizationWindowSeconds: {{ .Values.autoscaling.stabilizationSeconds }}
  policies: [{type: Pods, value: 1, periodSeconds: 60}]
{{- end }}

{{- /* Mean queue time of an inspection by pod, in milliseconds, over all steps. */}}
{{- define "sightline.queueQuery" -}}
sum by (namespace, pod) (rate(nv_inference_queue_duration_us{namespace="{{ .Release.Namespace }}", service="{{ include "sightline.fullname" . }}-metrics"}[1m])) / 1000
/ clamp_min(sum by (namespace, pod) (rate(nv_inference_request_success{namespace="{{ .Release.Namespace }}", service="{{ include "sightline.fullname" . }}-metrics", model=~"inspect|inspect_stream|segment"}[1m])), 0.02)
{{- end }}

{{- /* Requests that wait in a pod: in Triton's queues, and in that of LISA's engine, which takes them from Triton at once. */}}
{{- define "sightline.waitingQuery" -}}
{{- $here := printf "namespace=%q, service=\"%s-metrics\"" .Release.Namespace (include "sightline.fullname" .) -}}
sum by (namespace, pod) (nv_inference_pending_request_count{ {{- $here -}} })
+ sum by (namespace, pod) (sightline_lisa_waiting{ {{- $here -}} })
{{- end }}
