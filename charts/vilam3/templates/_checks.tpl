{{/* What the schema cannot see: values that contradict each other or the cluster. All of them are told at once. */}}

{{- define "vilam3.checks" -}}
{{- $problems := concat
      (include "vilam3.checks.required" . | fromJsonArray)
      (include "vilam3.checks.contradictions" . | fromJsonArray)
      (include "vilam3.checks.cluster" . | fromJsonArray) -}}
{{- if $problems -}}
{{- fail (printf "\n\nvilam3 cannot be installed like this:\n\n  * %s\n" (join "\n  * " $problems)) -}}
{{- end -}}
{{- end }}

{{- define "vilam3.checks.required" -}}
{{- $problems := list -}}
{{- $needed := dict "image.registry" .Values.image.registry "serving.apiKeysSecret" .Values.serving.apiKeysSecret "vlm.model" .Values.vlm.model -}}
{{- if ne .Values.serving.mode "single" }}{{ $_ := set $needed "storage.studies" .Values.storage.studies }}{{ end -}}
{{- range splitList " " (include "vilam3.experts" .) | compact }}{{ $_ := set $needed (printf "experts.%s.model" .) (index $.Values.experts .).model }}{{ end -}}
{{- if .Values.mlflow.enabled -}}
{{- $_ := set $needed "mlflow.artifacts" .Values.mlflow.artifacts -}}
{{- if .Values.mlflow.postgresql.enabled }}{{ $_ := set $needed "mlflow.postgresql.secret" .Values.mlflow.postgresql.secret }}{{ else }}{{ $_ := set $needed "mlflow.databaseSecret" .Values.mlflow.databaseSecret }}{{ end -}}
{{- end -}}
{{- if .Values.pipelines.schedule }}{{ range $name, $uri := .Values.pipelines.retrain }}{{ $_ := set $needed (printf "pipelines.retrain.%s" $name) $uri }}{{ end }}{{ end -}}
{{- if include "vilam3.training.launches" . }}{{ $_ := set $needed "training.checkpoints" .Values.training.checkpoints }}{{ end -}}
{{- if include "vilam3.intake.enabled" . -}}
{{- $_ := set $needed "pipelines.intake.records" .Values.pipelines.intake.records -}}
{{- range list "baseCheckpoint" "experts" }}{{ $_ := set $needed (printf "pipelines.retrain.%s" .) (get $.Values.pipelines.retrain .) }}{{ end -}}
{{- if not .Values.pipelines.intake.watch }}{{ $_ := set $needed "pipelines.retrain.corpus" .Values.pipelines.retrain.corpus }}{{ end -}}
{{- end -}}
{{- if .Values.training.job.enabled -}}
{{- $_ := set $needed "training.claim" .Values.training.claim -}}
{{- range list "corpus" "out" }}{{ $_ := set $needed (printf "training.job.%s" .) (get $.Values.training.job .) }}{{ end -}}
{{- end -}}
{{- range $name := keys $needed | sortAlpha -}}
{{- if not (get $needed $name) }}{{ $problems = append $problems (printf "%s is empty; give it in a values file or by --set, its meaning is in values.yaml" $name) }}{{ end -}}
{{- end -}}
{{- toJson $problems -}}
{{- end }}

{{- define "vilam3.checks.contradictions" -}}
{{- $problems := list -}}
{{- $parts := dict "orchestrator" .Values.orchestrator "vlm" .Values.vlm -}}
{{- range $name, $expert := .Values.experts }}{{ $_ := set $parts (printf "experts.%s" $name) $expert }}{{ end -}}
{{- range $name := keys $parts | sortAlpha -}}
{{- $part := get $parts $name -}}
{{- with $part.replicas -}}
{{- if gt (int .min) (int .max) }}{{ $problems = append $problems (printf "%s.replicas: min %d is more than max %d; raise max or lower min" $name (int .min) (int .max)) }}{{ end -}}
{{- end -}}
{{- if and (ne $.Values.serving.mode "kserve") (hasPrefix "oci://" (toString $part.model)) }}{{ $problems = append $problems (printf "%s.model: oci:// is mounted by KServe alone; use pvc:// or s3://, or serving.mode=kserve" $name) }}{{ end -}}
{{- if and (hasPrefix "models:/" (toString $part.model)) (not (include "vilam3.mlflow.uri" $)) }}{{ $problems = append $problems (printf "%s.model: models:/ names a version in MLflow, and there is none; set mlflow.enabled or mlflow.uri" $name) }}{{ end -}}
{{- end -}}
{{- range $name := splitList " " (include "vilam3.experts" .) | compact -}}
{{- range (index $.Values.experts $name).needs -}}
{{- if not (dig . "enabled" false $.Values.experts) }}{{ $problems = append $problems (printf "experts.%s.needs: %s is not enabled, so its weights are nowhere; enable it or leave it out" $name .) }}{{ end -}}
{{- end -}}
{{- end -}}
{{- if lt (int .Values.serving.answerTimeoutSeconds) (int .Values.serving.expertTimeoutSeconds) }}{{ $problems = append $problems (printf "serving.answerTimeoutSeconds=%d is less than serving.expertTimeoutSeconds=%d: no answer could await its expert; raise the first" (int .Values.serving.answerTimeoutSeconds) (int .Values.serving.expertTimeoutSeconds)) }}{{ end -}}
{{- if and .Values.mlflow.enabled .Values.mlflow.uri }}{{ $problems = append $problems "mlflow.uri names an MLflow that exists and mlflow.enabled installs another; unset one of them" }}{{ end -}}
{{- if and .Values.pipelines.intake.enabled (not .Values.pipelines.enabled) }}{{ $problems = append $problems "pipelines.intake.enabled: it starts runs of the pipelines, and pipelines.enabled is false; set it, or leave the intake off" }}{{ end -}}
{{- if and .Values.pipelines.schedule (hasPrefix "models:/" .Values.pipelines.retrain.baseCheckpoint) }}{{ $problems = append $problems "pipelines.retrain.baseCheckpoint: models:/ is looked up by the intake alone; give a URI, or unset pipelines.schedule" }}{{ end -}}
{{- if and .Values.pipelines.enabled (not (include "vilam3.mlflow.uri" .)) }}{{ $problems = append $problems "pipelines.enabled: a pipeline registers its model in MLflow, and there is none; set mlflow.enabled or mlflow.uri" }}{{ end -}}
{{- if and (eq .Values.vlm.engine "vllm") (ne .Values.serving.mode "kserve") }}{{ $problems = append $problems (printf "vlm.engine=vllm and serving.mode=%s: the image with vLLM holds no experts; use serving.mode=kserve or vlm.engine=torch" .Values.serving.mode) }}{{ end -}}
{{- if and (eq .Values.vlm.engine "torch") .Values.vlm.engineOptions }}{{ $problems = append $problems "vlm.engineOptions are of vLLM; set vlm.engine=vllm or leave them out" }}{{ end -}}
{{- if and .Values.training.queue (ne (int .Values.training.workers.min) (int .Values.training.workers.max)) }}{{ $problems = append $problems (printf "training.workers: Kueue admits a fixed number, and min %d differs from max %d; make them equal, or unset training.queue" (int .Values.training.workers.min) (int .Values.training.workers.max)) }}{{ end -}}
{{- if and .Values.training.job.enabled (not (int .Values.training.workers.max)) }}{{ $problems = append $problems "training.workers.max is 0 and training.job.enabled needs at least one; raise it" }}{{ end -}}
{{- toJson $problems -}}
{{- end }}

{{/* Helm asks the API server for every kind before it runs a hook, so a kind that is missing must be told here. */}}
{{- define "vilam3.checks.cluster" -}}
{{- $problems := list -}}
{{- $apis := .Capabilities.APIVersions -}}
{{- $see := "see infra/platform/README.md (to render without a cluster, name it by --api-versions)" -}}
{{- if and (eq .Values.serving.mode "kserve") (not ($apis.Has "serving.kserve.io/v1beta1/InferenceService")) }}{{ $problems = append $problems (printf "serving.mode=kserve: this cluster has no InferenceService of serving.kserve.io/v1beta1; install KServe or choose another mode: %s" $see) }}{{ end -}}
{{- if and (eq .Values.serving.mode "ray") (not ($apis.Has "ray.io/v1/RayService")) }}{{ $problems = append $problems (printf "serving.mode=ray: this cluster has no RayService of ray.io/v1; install KubeRay or choose another mode: %s" $see) }}{{ end -}}
{{- if and .Values.pipelines.enabled (eq .Values.pipelines.launcher "rayjob") (not ($apis.Has "ray.io/v1/RayJob")) }}{{ $problems = append $problems (printf "pipelines.launcher=rayjob: this cluster has no RayJob of ray.io/v1; install KubeRay or set it to here: %s" $see) }}{{ end -}}
{{- if and .Values.pipelines.enabled (eq .Values.pipelines.launcher "trainjob") (not ($apis.Has "trainer.kubeflow.org/v1alpha1/TrainJob")) }}{{ $problems = append $problems (printf "pipelines.launcher=trainjob: this cluster has no TrainJob of trainer.kubeflow.org/v1alpha1; install Kubeflow Trainer or set it to rayjob or here: %s" $see) }}{{ end -}}
{{- if and (or .Values.training.enabled .Values.training.job.enabled) (not ($apis.Has "ray.io/v1/RayCluster")) }}{{ $problems = append $problems (printf "training: this cluster has no RayCluster of ray.io/v1; install KubeRay or leave training off: %s" $see) }}{{ end -}}
{{- if and (eq .Values.serving.mode "kserve") (eq .Values.autoscaling.with "keda") (not ($apis.Has "keda.sh/v1alpha1/ScaledObject")) }}{{ $problems = append $problems (printf "autoscaling.with=keda: this cluster has no ScaledObject of keda.sh/v1alpha1; install KEDA or set it to auto: %s" $see) }}{{ end -}}
{{- if and (eq (include "vilam3.pipelines.delivery" .) "kubernetes") (not ($apis.Has "pipelines.kubeflow.org/v2beta1/PipelineVersion")) }}{{ $problems = append $problems (printf "pipelines.delivery=kubernetes: this cluster has no PipelineVersion of pipelines.kubeflow.org/v2beta1; run Kubeflow Pipelines in Kubernetes-native mode or set it to upload: %s" $see) }}{{ end -}}
{{- if and .Values.training.queue (not ($apis.Has "kueue.x-k8s.io/v1beta2/LocalQueue")) }}{{ $problems = append $problems (printf "training.queue: this cluster has no LocalQueue of kueue.x-k8s.io/v1beta2; install Kueue or unset it: %s" $see) }}{{ end -}}
{{- if and (eq .Values.monitoring.enabled "always") (not ($apis.Has "monitoring.coreos.com/v1/ServiceMonitor")) }}{{ $problems = append $problems (printf "monitoring.enabled=always: this cluster has no ServiceMonitor of monitoring.coreos.com/v1; install the Prometheus operator or set it to auto: %s" $see) }}{{ end -}}
{{- toJson $problems -}}
{{- end }}
