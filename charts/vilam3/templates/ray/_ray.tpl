{{/* What the pods of a Ray cluster share. KubeRay replaces the command of the container by `ray start`. */}}

{{/* Pod template: (list $ dict) with keys part, workload, gpus, resources, priority, volumes, mounts, init, env, isHead, serves. */}}
{{- define "vilam3.ray.template" -}}
{{- $root := first . }}{{- $pod := last . -}}
metadata:
  labels:
    {{- include "vilam3.labels" (list $root $pod.part) | nindent 4 }}
    {{- with $pod.labels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  {{- /* No account: the operator makes one for the head, which asks the API server for workers. */}}
  {{- include "vilam3.pod" (list $root (dict "priority" $pod.priority "workload" $pod.workload "gpus" $pod.gpus)) | nindent 2 }}
  {{- with $pod.init }}
  initContainers:
    {{- . | nindent 4 }}
  {{- end }}
  containers:
    - name: ray
      image: {{ include "vilam3.image.compute" $root }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      env:
        {{- include "vilam3.env.serving" $root | nindent 8 }}
        {{- include "vilam3.env.tracking" $root | trim | nindent 8 }}
        # The operator has no token for a RayService; the NetworkPolicy keeps others away.
        - name: RAY_AUTH_MODE
          value: disabled
        - name: RAY_USAGE_STATS_ENABLED
          value: "0"
        - name: RAY_raylet_start_wait_time_s
          value: "600"
        {{- with $pod.env }}
        {{- . | nindent 8 }}
        {{- end }}
      resources:
        {{- include "vilam3.resources" (list $root $pod.resources $pod.gpus) | nindent 8 }}
      securityContext:
        {{- include "vilam3.container.security" $root | nindent 8 }}
      {{- include "vilam3.ray.probes" $pod | nindent 6 }}
      lifecycle:
        {{- include "vilam3.lifecycle" $root | nindent 8 }}
      volumeMounts:
        {{- include "vilam3.scratch.mounts" $root | nindent 8 }}
        {{- include "vilam3.shm.mount" $root | nindent 8 }}
        {{- with $pod.mounts }}
        {{- . | nindent 8 }}
        {{- end }}
  volumes:
    {{- include "vilam3.scratch.volumes" $root | nindent 4 }}
    {{- include "vilam3.shm.volume" $root | nindent 4 }}
    {{- with $pod.volumes }}
    {{- . | nindent 4 }}
    {{- end }}
{{- end }}

{{/*
The operator would add probes of its own, which call wget in the container; these ask the same addresses from outside. Who
serves is ready when the proxy on its node is, the head when it holds the cluster together.
*/}}
{{- define "vilam3.ray.probes" -}}
livenessProbe:
  httpGet: {path: /api/local_raylet_healthz, port: 52365}
  initialDelaySeconds: 30
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 120
readinessProbe:
  {{- if .isHead }}
  httpGet: {path: /api/gcs_healthz, port: 8265}
  {{- else if .serves }}
  httpGet: {path: /-/healthz, port: 8000}
  {{- else }}
  httpGet: {path: /api/local_raylet_healthz, port: 52365}
  {{- end }}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: {{ ternary 1 10 (default false .serves) }}
{{- end }}

{{/*
What `ray start` is told of every pod. Ports are named: to find out those of its agents Ray waits 15 seconds, and gives the
node up where they take longer. A pod has its ports for itself.
*/}}
{{- define "vilam3.ray.start" -}}
dashboard-agent-listen-port: "52365"
dashboard-agent-grpc-port: "52366"
runtime-env-agent-port: "52367"
metrics-export-port: "8080"
{{- with .Values.ray.objectStoreBytes }}
object-store-memory: {{ int64 . | quote }}
{{- end }}
{{- end }}

{{/* And of the head, which has no processors to give. */}}
{{- define "vilam3.ray.startHead" -}}
dashboard-host: 0.0.0.0
num-cpus: "0"
{{ include "vilam3.ray.start" . }}
{{- end }}

{{/* The version that the compute image holds. */}}
{{- define "vilam3.ray.version" -}}
2.60.0
{{- end }}

{{/* The autoscaler runs beside the head and starts workers as Ray asks for them. */}}
{{- define "vilam3.ray.autoscaler" -}}
enableInTreeAutoscaling: true
autoscalerOptions:
  version: v2
  upscalingMode: Default
  idleTimeoutSeconds: {{ .Values.autoscaling.cooldownSeconds }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  securityContext:
    {{- include "vilam3.container.security" . | nindent 4 }}
  resources:
    requests: {cpu: 200m, memory: 512Mi}
    limits: {cpu: 500m, memory: 512Mi}
{{- end }}
