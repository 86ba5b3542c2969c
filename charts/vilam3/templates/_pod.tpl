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

{{/* Pod fields that all workloads share: (list $ dict) with account, token, priority, grace, workload and gpus where they apply. */}}
{{- define "vilam3.pod" -}}
{{- $root := first . }}{{- $pod := last . -}}
securityContext:
  {{- include "vilam3.pod.security" $root | nindent 2 }}
{{- with $pod.account }}
serviceAccountName: {{ include "vilam3.name" (list $root .) }}
automountServiceAccountToken: {{ default false $pod.token }}
{{- end }}
{{- with $pod.priority }}
terminationGracePeriodSeconds: {{ $pod.grace | default (include "vilam3.grace" $root) }}
{{- include "vilam3.priority" (list $root .) }}
{{- end }}
{{- include "vilam3.image.secrets" $root }}
{{- include "vilam3.placement" (list $root (default dict $pod.workload) (default 0 $pod.gpus) (default "" $pod.priority)) }}
{{- end }}

{{/* How long a pod may take to end: the longest answer, after the endpoints have forgotten it. */}}
{{- define "vilam3.grace" -}}
{{ add .Values.serving.answerTimeoutSeconds 30 }}
{{- end }}

{{/* A pod gets SIGTERM while Services still send to it; it goes on accepting until they have stopped. */}}
{{- define "vilam3.lifecycle" -}}
preStop:
  sleep:
    seconds: 10
{{- end }}
