{{/* The cluster that trains, for a standing RayCluster and for the one of a RayJob alike. */}}

{{- define "vilam3.training.cluster" -}}
{{- $training := .Values.training }}
{{- $shared := dict "part" "training" "priority" "training" "labels" dict "init" "" "env" "" -}}
{{- $_ := set $shared "mounts" (include "vilam3.training.mount" .) -}}
{{- $_ := set $shared "volumes" (include "vilam3.training.volume" .) -}}
rayVersion: {{ include "vilam3.ray.version" . }}
headGroupSpec:
  rayStartParams:
    {{- include "vilam3.ray.startHead" . | nindent 4 }}
  template:
    {{- $head := dict "isHead" true "workload" dict "gpus" 0 "resources" .Values.ray.head }}
    {{- include "vilam3.ray.template" (list . (merge $head $shared)) | nindent 4 }}
workerGroupSpecs:
  - groupName: trainers
    replicas: {{ $training.workers.min }}
    minReplicas: {{ $training.workers.min }}
    maxReplicas: {{ $training.workers.max }}
    rayStartParams:
      {{- include "vilam3.ray.start" . | nindent 6 }}
    template:
      {{- $worker := dict "workload" $training "gpus" $training.workers.gpus "resources" $training.workers }}
      {{- include "vilam3.ray.template" (list . (merge $worker $shared)) | nindent 6 }}
{{- end }}

{{/* Corpus, checkpoints and state: one claim that every worker mounts. */}}
{{- define "vilam3.training.mount" -}}
{{- if .Values.training.claim -}}
- name: runs
  mountPath: /runs
{{- end }}
{{- end }}

{{- define "vilam3.training.volume" -}}
{{- with .Values.training.claim -}}
- name: runs
  persistentVolumeClaim:
    claimName: {{ . }}
{{- end }}
{{- end }}

{{/* Kueue admits all pods of a cluster together, or none: half a gang would hold accelerators and wait. */}}
{{- define "vilam3.training.labels" -}}
{{- include "vilam3.labels" (list . "training") }}
{{- with .Values.training.queue }}
kueue.x-k8s.io/queue-name: {{ . }}
{{- end }}
{{- end }}
