{{/* The database by reference: a Secret that holds the whole URI, or the password of the small one of this chart. */}}
{{- define "vilam3.mlflow.database" -}}
{{- if .Values.mlflow.postgresql.enabled }}
- name: POSTGRES_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ .Values.mlflow.postgresql.secret }}
      key: password
- name: MLFLOW_BACKEND_STORE_URI
  value: postgresql+psycopg://mlflow:$(POSTGRES_PASSWORD)@{{ include "vilam3.name" (list . "postgresql") }}:5432/mlflow
{{- else }}
- name: MLFLOW_BACKEND_STORE_URI
  valueFrom:
    secretKeyRef:
      name: {{ .Values.mlflow.databaseSecret }}
      key: uri
{{- end }}
{{- end }}

{{/* The first start migrates the database, which takes minutes. */}}
{{- define "vilam3.mlflow.probes" -}}
{{- $health := dict "path" "/health" "port" 5000 "httpHeaders" (list (dict "name" "Host" "value" "localhost:5000")) -}}
startupProbe:
  httpGet:
    {{- toYaml $health | nindent 4 }}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 120
readinessProbe:
  httpGet:
    {{- toYaml $health | nindent 4 }}
  periodSeconds: 10
  timeoutSeconds: 5
livenessProbe:
  httpGet:
    {{- toYaml $health | nindent 4 }}
  periodSeconds: 20
  timeoutSeconds: 10
  failureThreshold: 6
{{- end }}
