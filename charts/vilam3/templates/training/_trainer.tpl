{{/*
Training by a TrainJob. A job may say most of a pod by patching its runtime; the runtime says the rest, and nothing twice but
the image, without which it were no pod.
*/}}

{{- define "vilam3.trainer.runtime" -}}
{{ include "vilam3.name" (list . "torch") }}
{{- end }}

{{/* What a pod is, as everywhere. */}}
{{- define "vilam3.trainer.pod" -}}
{{- include "vilam3.pod" (list . (dict "priority" "training" "grace" .Values.training.graceSeconds "workload" .Values.training "gpus" .Values.training.workers.gpus)) }}
{{- end }}

{{/* Fields of a pod that a job may patch. */}}
{{- define "vilam3.trainer.patchable" -}}
[securityContext, terminationGracePeriodSeconds, imagePullSecrets, nodeSelector, tolerations]
{{- end }}

{{/* The job's own part. */}}
{{- define "vilam3.trainer.job" -}}
{{- $training := .Values.training }}{{- $pod := include "vilam3.trainer.pod" . | fromYaml -}}
runtimeRef:
  apiGroup: trainer.kubeflow.org
  kind: {{ ternary "ClusterTrainingRuntime" "TrainingRuntime" (not (empty $training.runtime)) }}
  name: {{ $training.runtime | default (include "vilam3.trainer.runtime" .) }}
trainer:
  image: {{ include "vilam3.image.compute" . }}
  env:
    {{- include "vilam3.env.base" . | nindent 4 }}
    {{- include "vilam3.env.s3" . | trim | nindent 4 }}
    {{- include "vilam3.env.tracking" . | trim | nindent 4 }}
    {{- include "vilam3.training.env" . | nindent 4 }}
  resourcesPerNode:
    {{- include "vilam3.resources" (list . (merge (dict "extended" $training.network.resources) $training.workers) $training.workers.gpus) | nindent 4 }}
runtimePatches:
  - manager: vilam3/launcher
    trainingRuntimeSpec:
      template:
        spec:
          replicatedJobs:
            - name: node
              template:
                spec:
                  template:
                    metadata:
                      labels:
                        {{- include "vilam3.labels" (list . "training") | nindent 24 }}
                    spec:
                      {{- range include "vilam3.trainer.patchable" . | fromYamlArray }}
                      {{- if hasKey $pod . }}
                      {{- pick $pod . | toYaml | nindent 22 }}
                      {{- end }}
                      {{- end }}
                      containers:
                        - name: node
                          securityContext:
                            {{- include "vilam3.container.security" . | nindent 28 }}
                              {{- if $training.network.resources }}
                              add: [IPC_LOCK]
                              {{- end }}
                          volumeMounts:
                            {{- include "vilam3.scratch.mounts" . | nindent 28 }}
                            {{- include "vilam3.shm.mount" . | nindent 28 }}
                      volumes:
                        {{- include "vilam3.scratch.volumes" . | nindent 24 }}
                        {{- include "vilam3.shm.volume" . | nindent 24 }}
                            {{- with $training.shmSize }}
                            sizeLimit: {{ . }}
                            {{- end }}
{{- end }}
