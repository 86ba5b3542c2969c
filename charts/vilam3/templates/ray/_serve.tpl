{{/* What Ray Serve runs: a deployment for each model, which share accelerators by ray.shares. */}}
{{- define "vilam3.ray.serve" -}}
{{- $experts := splitList " " (include "vilam3.experts" .) | compact -}}
proxy_location: EveryNode
http_options:
  host: 0.0.0.0
  port: 8000
applications:
  - name: vilam3
    route_prefix: /
    import_path: serving.ray_app:app
    args:
      model: /mnt/models/vlm
      {{- if $experts }}
      experts: /mnt/models/experts
      {{- end }}
      studies: {{ .Values.storage.studies }}
      deadline_s: {{ .Values.serving.answerTimeoutSeconds }}
      expert_seconds: {{ .Values.serving.answers.expertSeconds }}
      experts_at_a_time: {{ .Values.serving.answers.expertsAtATime }}
      per_tenant: {{ .Values.serving.answers.perKey }}
      remember: {{ .Values.serving.answers.remember }}
      slots: {{ .Values.vlm.slots }}
      waiting: {{ .Values.vlm.waiting }}
      memory_gib: {{ .Values.vlm.memoryGiB }}
    deployments:
      {{- include "vilam3.ray.deployment" (list . "LanguageModel" .Values.vlm .Values.ray.shares.vlm) | nindent 6 }}
      {{- range $experts }}
      {{- include "vilam3.ray.deployment" (list $ (upper .) (index $.Values.experts .) $.Values.ray.shares.expert) | nindent 6 }}
      {{- end }}
{{- end }}

{{/* (list $ name workload share) */}}
{{- define "vilam3.ray.deployment" -}}
{{- $root := index . 0 }}{{- $workload := index . 2 -}}
- name: {{ index . 1 }}
  autoscaling_config:
    min_replicas: {{ $workload.replicas.min }}
    max_replicas: {{ $workload.replicas.max }}
    target_ongoing_requests: {{ $root.Values.autoscaling.queueDepth }}
    downscale_delay_s: {{ $root.Values.autoscaling.scaleDownStabilizationSeconds }}
  {{- if $workload.gpus }}
  ray_actor_options:
    num_gpus: {{ index . 3 }}
  {{- end }}
{{- end }}
