{{/* What all serving pods share beyond `_pod.tpl`: KServe's annotations, ports and probes. */}}

{{/* Standard mode needs no Knative. KServe leaves scaling to the objects of this chart. */}}
{{- define "vilam3.kserve.annotations" -}}
serving.kserve.io/deploymentMode: Standard
serving.kserve.io/autoscalerClass: external
{{- end }}

{{- define "vilam3.ports" -}}
- name: http
  containerPort: 8080
  protocol: TCP
{{- end }}

{{/* The terms on which answers are given, wherever dialogues are held. */}}
{{- define "vilam3.terms.args" -}}
- --deadline-s
- {{ .Values.serving.answerTimeoutSeconds | quote }}
- --expert-seconds
- {{ .Values.serving.answers.expertSeconds | quote }}
- --experts-at-a-time
- {{ .Values.serving.answers.expertsAtATime | quote }}
- --per-tenant
- {{ .Values.serving.answers.perKey | quote }}
{{- if not .Values.serving.answers.remember }}
- --no-cache
{{- end }}
{{- end }}

{{/* Loading takes minutes, a probe of a loaded server milliseconds: (list $ minutes). */}}
{{- define "vilam3.probes" -}}
startupProbe:
  httpGet: {path: /v2/health/ready, port: 8080}
  periodSeconds: 5
  failureThreshold: {{ mul 12 (last .) }}
readinessProbe:
  httpGet: {path: /v2/health/ready, port: 8080}
  periodSeconds: 5
  timeoutSeconds: 2
  failureThreshold: 2
livenessProbe:
  httpGet: {path: /v2/health/live, port: 8080}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
{{- end }}

{{/* An upgrade starts the new pod first where there is an accelerator to spare, else it replaces in place. */}}
{{- define "vilam3.strategy" -}}
type: RollingUpdate
rollingUpdate:
  maxSurge: {{ last . }}
  maxUnavailable: {{ ternary 0 1 (gt (int (last .)) 0) }}
{{- end }}

{{/* Container of a model format, with what one process is told besides: (list $ format args). */}}
{{- define "vilam3.runtime.container" -}}
{{- $root := index . 0 }}{{- $format := index . 1 -}}
- name: kserve-container
  image: {{ include "vilam3.image.predictor" (list $root $format) }}
  imagePullPolicy: {{ $root.Values.image.pullPolicy }}
  args:
    {{- toYaml (concat (include "vilam3.predictor.base" $format | fromJsonArray) (index . 2)) | nindent 4 }}
  ports:
    {{- include "vilam3.ports" $root | nindent 4 }}
  securityContext:
    {{- include "vilam3.container.security" $root | nindent 4 }}
  lifecycle:
    {{- include "vilam3.lifecycle" $root | nindent 4 }}
  {{- include "vilam3.probes" (list $root (include "vilam3.predictor.minutes" $format | int)) | nindent 2 }}
{{- end }}

{{/* Pod fields of a predictor: (list $ part workload gpus). */}}
{{- define "vilam3.predictor.pod" -}}
{{- $root := index . 0 }}{{- $part := index . 1 -}}
{{- include "vilam3.pod" (list $root (dict "account" "serving" "priority" "serving" "workload" (index . 2) "gpus" (index . 3))) }}
topologySpreadConstraints:
  {{- include "vilam3.spread" (list $root $part) | nindent 2 }}
{{- end }}

{{/* Mounts and volumes of a process with a model: (list $ models). */}}
{{- define "vilam3.model.mounts" -}}
{{- $root := first . -}}
{{- list (include "vilam3.scratch.mounts" $root) (include "vilam3.keys.mount" $root) (include "vilam3.shm.mount" $root) (include "vilam3.models.mounts" . | trim) | compact | join "\n" -}}
{{- end }}

{{- define "vilam3.model.volumes" -}}
{{- $root := first . -}}
{{- list (include "vilam3.scratch.volumes" $root) (include "vilam3.keys.volume" $root) (include "vilam3.shm.volume" $root) (include "vilam3.models.volumes" . | trim) | compact | join "\n" -}}
{{- end }}
