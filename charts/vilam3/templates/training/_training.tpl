{{/* The cluster that trains, for a standing RayCluster and for the one of a RayJob alike: (list $ claim). */}}

{{- define "vilam3.training.cluster" -}}
{{- $root := first . }}{{- $claim := last . }}{{- $training := $root.Values.training }}
{{- $shared := dict "part" "training" "priority" "training" "labels" dict "init" "" "grace" $training.graceSeconds "shm" $training.shmSize -}}
{{- $_ := set $shared "env" (include "vilam3.training.env" $root) -}}
{{- $_ := set $shared "mounts" (include "vilam3.training.mount" $claim) -}}
{{- $_ := set $shared "volumes" (include "vilam3.training.volume" $claim) -}}
rayVersion: {{ include "vilam3.ray.version" $root }}
headGroupSpec:
  rayStartParams:
    {{- include "vilam3.ray.startHead" $root | nindent 4 }}
  template:
    {{- $head := dict "isHead" true "workload" dict "gpus" 0 "resources" $root.Values.ray.head }}
    {{- include "vilam3.ray.template" (list $root (merge $head $shared)) | nindent 4 }}
workerGroupSpecs:
  - groupName: trainers
    replicas: {{ $training.workers.min }}
    minReplicas: {{ $training.workers.min }}
    maxReplicas: {{ $training.workers.max }}
    rayStartParams:
      {{- include "vilam3.ray.start" $root | nindent 6 }}
    template:
      {{- $worker := dict "workload" $training "gpus" $training.workers.gpus "resources" (merge (dict "extended" $training.network.resources) $training.workers) "locksMemory" (not (empty $training.network.resources)) }}
      {{- include "vilam3.ray.template" (list $root (merge $worker $shared)) | nindent 6 }}
{{- end }}

{{/* A job of it: (list $ claim backoffLimit). The driver waits on the head, and Ray starts a member of the gang on each worker. */}}
{{- define "vilam3.training.job" -}}
submissionMode: HTTPMode
backoffLimit: {{ last . }}
shutdownAfterJobFinishes: true
# Accelerators are held so long after the end.
ttlSecondsAfterFinished: 60
rayClusterSpec:
  {{- include "vilam3.training.cluster" (list (index . 0) (index . 1)) | nindent 2 }}
{{- end }}

{{/* Facts of the machines, so that no recipe names them: room for shards, a price, how processes reach each other. */}}
{{- define "vilam3.training.env" -}}
{{- with .Values.training.shardCacheGib }}
- name: VILAM3_SHARD_CACHE_GIB
  value: {{ . | quote }}
{{- end }}
{{- if ne (toString .Values.training.pricePerGpuHour) "" }}
- name: VILAM3_PRICE_PER_GPU_HOUR
  value: {{ .Values.training.pricePerGpuHour | toString | quote }}
- name: VILAM3_CURRENCY
  value: {{ .Values.training.currency | quote }}
{{- end }}
{{- range $name, $value := .Values.training.network.env }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}

{{/* Corpus, checkpoints and state: one claim that every worker mounts. */}}
{{- define "vilam3.training.mount" -}}
{{- if . -}}
- name: runs
  mountPath: /runs
{{- end }}
{{- end }}

{{- define "vilam3.training.volume" -}}
{{- with . -}}
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

{{/* The job of a pipeline's stage, as far as this installation knows it. The launcher itself starts it again. */}}
{{- define "vilam3.training.template" -}}
{{- $isRay := eq .Values.pipelines.launcher "rayjob" -}}
apiVersion: {{ ternary "ray.io/v1" "trainer.kubeflow.org/v1alpha1" $isRay }}
kind: {{ ternary "RayJob" "TrainJob" $isRay }}
metadata:
  namespace: {{ .Values.pipelines.namespace }}
  labels:
    {{- include "vilam3.training.labels" . | nindent 4 }}
  annotations:
    vilam3/workers-per-pod: {{ max 1 (int .Values.training.workers.gpus) | quote }}
    vilam3/starting-seconds: {{ .Values.training.startingSeconds | quote }}
    vilam3/stalled-seconds: {{ .Values.training.stalledSeconds | quote }}
    vilam3/unwatched-seconds: {{ .Values.training.unwatchedSeconds | quote }}
spec:
  {{- if $isRay }}
  {{- include "vilam3.training.job" (list . "" 0) | nindent 2 }}
  {{- else }}
  {{- include "vilam3.trainer.job" . | nindent 2 }}
  {{- end }}
{{- end }}

{{/* Whether stages of pipelines are trained by jobs of their own. */}}
{{- define "vilam3.training.launches" -}}
{{- if and .Values.pipelines.enabled (ne .Values.pipelines.launcher "here") }}true{{ end -}}
{{- end }}
