{{/* What every pod shares: who it runs as, where it may write, where it may run. */}}

{{- define "vilam3.pod.security" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "vilam3.container.security" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* The only places to write on a read-only root; both end with the pod, as uploads and results must. */}}
{{- define "vilam3.scratch.volumes" -}}
- name: tmp
  emptyDir: {}
- name: work
  emptyDir:
    sizeLimit: {{ .Values.storage.workSize }}
{{- end }}

{{- define "vilam3.scratch.mounts" -}}
- name: tmp
  mountPath: /tmp
- name: work
  mountPath: /var/lib/vilam3
{{- end }}

{{/* torch shares tensors between processes through /dev/shm, which is 64 MiB otherwise. */}}
{{- define "vilam3.shm.volume" -}}
- name: shm
  emptyDir:
    medium: Memory
{{- end }}

{{- define "vilam3.shm.mount" -}}
- name: shm
  mountPath: /dev/shm
{{- end }}

{{/* Requests and limits: (list $ resources gpus). Memory and accelerators are not overcommitted, so both are the same. */}}
{{- define "vilam3.resources" -}}
{{- $root := index . 0 }}{{- $wanted := index . 1 }}{{- $gpus := index . 2 -}}
requests:
  cpu: {{ $wanted.cpu | quote }}
  memory: {{ $wanted.memory }}
  {{- if $gpus }}
  {{ $root.Values.accelerator.resource }}: {{ $gpus | quote }}
  {{- end }}
limits:
  cpu: {{ $wanted.cpu | quote }}
  memory: {{ $wanted.memory }}
  {{- if $gpus }}
  {{ $root.Values.accelerator.resource }}: {{ $gpus | quote }}
  {{- end }}
{{- end }}

{{/* Pod fields that all workloads share: (list $ dict) with account, token, priority, workload and gpus where they apply. */}}
{{- define "vilam3.pod" -}}
{{- $root := first . }}{{- $pod := last . -}}
securityContext:
  {{- include "vilam3.pod.security" $root | nindent 2 }}
{{- with $pod.account }}
serviceAccountName: {{ include "vilam3.name" (list $root .) }}
automountServiceAccountToken: {{ default false $pod.token }}
{{- end }}
{{- with $pod.priority }}
terminationGracePeriodSeconds: {{ include "vilam3.grace" $root }}
{{- include "vilam3.priority" (list $root .) }}
{{- end }}
{{- include "vilam3.image.secrets" $root }}
{{- include "vilam3.placement" (list $root (default dict $pod.workload) (default 0 $pod.gpus)) }}
{{- end }}

{{/* Where a pod may run: (list $ workload gpus); the workload's own selector and tolerations on top of the shared ones. */}}
{{- define "vilam3.placement" -}}
{{- $root := index . 0 }}{{- $own := index . 1 }}{{- $gpus := index . 2 -}}
{{- $shared := ternary $root.Values.accelerator dict (gt (int $gpus) 0) -}}
{{- with mergeOverwrite (dict) (default dict $shared.nodeSelector) (default dict $own.nodeSelector) }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with concat (default list $shared.tolerations) (default list $own.tolerations) }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $shared.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- end }}

{{/* Priority of a kind of work: (list $ "serving"). */}}
{{- define "vilam3.priority" -}}
{{- if (first .).Values.priorityClasses }}
priorityClassName: {{ include "vilam3.clusterName" . }}
{{- end }}
{{- end }}

{{/* How long a pod may take to end: the longest answer, after the endpoints have forgotten it. */}}
{{- define "vilam3.grace" -}}
{{ add (max .Values.serving.answerTimeoutSeconds .Values.serving.expertTimeoutSeconds) 30 }}
{{- end }}

{{/* A pod gets SIGTERM while Services still send to it; it goes on accepting until they have stopped. */}}
{{- define "vilam3.lifecycle" -}}
preStop:
  sleep:
    seconds: 10
{{- end }}

{{/* Spread over nodes, where there are several: (list $ "vlm"). */}}
{{- define "vilam3.spread" -}}
- maxSkew: 1
  topologyKey: kubernetes.io/hostname
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
      {{- include "vilam3.selector" . | nindent 6 }}
{{- end }}
