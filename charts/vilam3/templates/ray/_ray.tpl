{{/* What the pods of a Ray cluster share. KubeRay replaces the command of the container by `ray start`. */}}

{{/* Pod template: (list $ dict) with keys part, workload, gpus, resources, priority, grace, volumes, mounts, shm, init, env,
locksMemory, isHead, serves. */}}
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
  {{- include "vilam3.pod" (list $root (dict "priority" $pod.priority "grace" $pod.grace "workload" $pod.workload "gpus" $pod.gpus)) | nindent 2 }}
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
        {{- with $pod.env }}
        {{- . | nindent 8 }}
        {{- end }}
      resources:
        {{- include "vilam3.resources" (list $root $pod.resources $pod.gpus) | nindent 8 }}
      securityContext:
        {{- include "vilam3.container.security" $root | nindent 8 }}
          {{- if $pod.locksMemory }}
          add: [IPC_LOCK]
          {{- end }}
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
        {{- with $pod.shm }}
        sizeLimit: {{ . }}
        {{- end }}
    {{- with $pod.volumes }}
    {{- . | nindent 4 }}
    {{- end }}
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
