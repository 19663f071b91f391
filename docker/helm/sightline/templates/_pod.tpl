{{- /* The pod of the Deployment and of the InferenceService. */}}
{{- define "sightline.pod" -}}
serviceAccountName: {{ include "sightline.serviceAccount" . }}
automountServiceAccountToken: false
enableServiceLinks: false
terminationGracePeriodSeconds: {{ include "sightline.graceSeconds" . }}
securityContext:
  runAsNonRoot: true
  runAsUser: 1000
  runAsGroup: 1000
  fsGroup: 1000
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{ toJson . }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{ toJson . }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{ toJson . }}
{{- end }}
{{- with .Values.affinity }}
affinity: {{ toJson . }}
{{- end }}
{{- if .Values.topologySpread.enabled }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: {{ .Values.topologySpread.key }}
    whenUnsatisfiable: {{ .Values.topologySpread.whenUnsatisfiable }}
    labelSelector:
      matchLabels: {{- include "sightline.selector" . | nindent 8 }}
{{- end }}
{{- if eq .Values.artefacts.source "volume" }}
initContainers:
  {{- with .Values.artefacts.fetch }}
  {{- if .image }}
  - name: fetch
    image: {{ .image }}
    command: {{ toJson .command }}
    {{- with .secret }}
    envFrom: [{secretRef: {name: {{ . }}}}]
    {{- end }}
    securityContext: {{- include "sightline.confined" $ | nindent 6 }}
    resources: {{- toYaml .resources | nindent 6 }}
    volumeMounts:
      - {name: artefacts, mountPath: /artefacts}
      - {name: temporary, mountPath: /tmp}
  {{- end }}
  {{- end }}
  - name: prepare
    image: {{ include "sightline.image" (list (ternary .Values.artefacts.exporter .Values.image (eq .Values.artefacts.plans "build")) .Chart.AppVersion) }}
    imagePullPolicy: {{ .Values.image.pullPolicy }}
    args: {{ include "sightline.prepareArguments" . | fromJsonArray | toJson }}
    env: {{- include "sightline.environment" . | nindent 6 }}
    securityContext: {{- include "sightline.confined" . | nindent 6 }}
    resources: {{- include "sightline.resources" . | nindent 6 }}
    volumeMounts:
      - {name: artefacts, mountPath: /artefacts, readOnly: true}
      - {name: repository, mountPath: /models}
      - {name: temporary, mountPath: /tmp}
{{- end }}
containers:
  - name: {{ if .Values.kserve.enabled }}kserve-container{{ else }}sightline{{ end }}
    image: {{ include "sightline.image" (list .Values.image .Chart.AppVersion) }}
    imagePullPolicy: {{ .Values.image.pullPolicy }}
    args: {{ include "sightline.arguments" . | fromJsonArray | toJson }}
    env:
      {{- include "sightline.environment" . | nindent 6 }}
      {{- if .Values.audit.enabled }}
      - {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
      {{- end }}
    ports:
      - {name: {{ if .Values.kserve.enabled }}h2c{{ else }}grpc{{ end }}, containerPort: 8001, protocol: TCP}
      {{- if and (include "sightline.http" .) (not .Values.kserve.enabled) }}
      - {name: http, containerPort: 8000, protocol: TCP}
      {{- end }}
      - {name: metrics, containerPort: 8002, protocol: TCP}
      - {name: health, containerPort: 8003, protocol: TCP}
    startupProbe:
      httpGet: {path: /ready, port: health}
      periodSeconds: 5
      timeoutSeconds: 2
      failureThreshold: {{ div (add .Values.probes.startSeconds 90) 5 }}
    readinessProbe:
      httpGet: {path: /ready, port: health}
      periodSeconds: {{ .Values.probes.periodSeconds }}
      timeoutSeconds: 2
      failureThreshold: 1
    livenessProbe:
      httpGet: {path: /live, port: health}
      periodSeconds: 10
      timeoutSeconds: 5
      failureThreshold: {{ .Values.probes.livenessFailures }}
    lifecycle:
      preStop:
        exec: {command: [sleep, {{ .Values.drain.preStopSeconds | quote }}]}
    securityContext: {{- include "sightline.confined" . | nindent 6 }}
    resources: {{- include "sightline.resources" . | nindent 6 }}
    volumeMounts:
      {{- if eq .Values.artefacts.source "volume" }}
      - {name: repository, mountPath: /models, readOnly: true}
      {{- end }}
      - {name: products, mountPath: /products}
      - {name: shared-memory, mountPath: /dev/shm}
      - {name: temporary, mountPath: /tmp}
      {{- if .Values.audit.enabled }}
      - {name: audit, mountPath: /audit}
      {{- end }}
      {{- if .Values.tls.enabled }}
      - {name: tls, mountPath: /tls, readOnly: true}
      {{- end }}
volumes:
  - name: products
    persistentVolumeClaim: {claimName: {{ include "sightline.productsClaim" . }}}
  - name: shared-memory
    emptyDir: {medium: Memory, sizeLimit: {{ .Values.sharedMemory }}}
  - name: temporary
    emptyDir: {sizeLimit: {{ .Values.temporary }}}
  {{- if .Values.audit.enabled }}
  - name: audit
    {{- if .Values.audit.claim }}
    persistentVolumeClaim: {claimName: {{ .Values.audit.claim }}}
    {{- else }}
    emptyDir: {sizeLimit: {{ .Values.audit.size }}}
    {{- end }}
  {{- end }}
  {{- if eq .Values.artefacts.source "volume" }}
  - name: repository
    {{- if .Values.artefacts.cache.claim }}
    persistentVolumeClaim: {claimName: {{ .Values.artefacts.cache.claim }}}
    {{- else }}
    emptyDir: {sizeLimit: {{ .Values.artefacts.cache.size }}}
    {{- end }}
  - name: artefacts
    {{- if .Values.artefacts.fetch.image }}
    emptyDir: {sizeLimit: {{ .Values.artefacts.cache.size }}}
    {{- else }}
    persistentVolumeClaim: {claimName: {{ required "artefacts.claim is empty: name the claim that holds the exported artefacts, or set artefacts.fetch.image" .Values.artefacts.claim }}, readOnly: true}
    {{- end }}
  {{- end }}
  {{- if .Values.tls.enabled }}
  - name: tls
    secret: {secretName: {{ required "tls.secret is empty: name a Secret with tls.crt and tls.key" .Values.tls.secret }}, defaultMode: 0440}
  {{- end }}
{{- end }}

{{- define "sightline.confined" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "sightline.resources" -}}
{{- $resources := deepCopy .Values.resources }}
{{- if gt (int .Values.gpu.count) 0 }}
{{- $gpu := dict "limits" (dict .Values.gpu.resource (int .Values.gpu.count)) }}
{{- $resources = mustMergeOverwrite $resources $gpu }}
{{- end }}
{{- toYaml $resources }}
{{- end }}

{{- define "sightline.environment" -}}
- {name: HOME, value: /tmp}
- {name: TORCHINDUCTOR_CACHE_DIR, value: /tmp/inductor}
- {name: TRITON_CACHE_DIR, value: /tmp/kernels}
{{- end }}

{{- /* Arguments, not commands: the entrypoint of NVIDIA's image, which sets up CUDA for older drivers, stays in front. */}}
{{- define "sightline.arguments" -}}
{{- $line := list "sightline-serve" "--profile" .Values.profile "--host" "0.0.0.0" "--products" "/products" }}
{{- if eq .Values.artefacts.source "volume" }}{{ $line = concat $line (list "--repository" (printf "/models/%s" .Values.artefacts.cache.folder)) }}{{ end }}
{{- with .Values.config }}{{ $line = concat $line (list "--config" .) }}{{ end }}
{{- $line = concat $line (list "--start-seconds" (toString .Values.probes.startSeconds) "--exit-seconds" (toString .Values.server.exitSeconds) "--canary-seconds" (toString .Values.server.canarySeconds)) }}
{{- $line = concat $line (list "--connection-seconds" (int64 .Values.server.connectionSeconds | toString) "--cache-bytes" (int64 .Values.server.cacheBytes | toString)) }}
{{- $line = concat $line (list "--log-format" .Values.server.logFormat) }}
{{- if .Values.audit.enabled }}{{ $line = concat $line (list "--audit" "/audit/$(POD_NAME).jsonl") }}{{ end }}
{{- if .Values.server.verbose }}{{ $line = append $line "--verbose" }}{{ end }}
{{- if .Values.tls.enabled }}
{{- $line = concat $line (list "--tls-certificate" "/tls/tls.crt" "--tls-key" "/tls/tls.key") }}
{{- if .Values.tls.mutual }}{{ $line = concat $line (list "--tls-clients" "/tls/ca.crt") }}{{ end }}
{{- end }}
{{- with .Values.traces.url }}{{ $line = concat $line (list "--trace-url" . "--trace-rate" (toString $.Values.traces.rate)) }}{{ end }}
{{- toJson $line }}
{{- end }}

{{- define "sightline.prepareArguments" -}}
{{- $line := list "python3" "/opt/sightline/docker/prepare.py" "--repository" (printf "/models/%s" .Values.artefacts.cache.folder) "--artefacts" "/artefacts" "--profile" .Values.profile "--plans" .Values.artefacts.plans }}
{{- with .Values.artefacts.precision }}{{ $line = concat $line (list "--precision" .) }}{{ end }}
{{- toJson $line }}
{{- end }}
