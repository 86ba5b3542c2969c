{{/* What wakes somebody up, and where its page is. Arguments: (list $ service namespaceMatcher). */}}
{{- define "vilam3.alerts" -}}
{{- $root := index . 0 }}{{- $service := index . 1 }}{{- $here := index . 2 -}}
{{- $monitoring := $root.Values.monitoring -}}
- name: VilaM3EndpointDown
  expr: absent(up{ {{- $here }},service="{{ $service }}"} == 1)
  for: 2m
  severity: critical
  summary: No pod of the endpoint answers.
  description: Prometheus has reached no pod behind {{ $service }} for two minutes; nobody gets an answer.
  runbook: endpoint-down.md
- name: VilaM3AnswersFail
  expr: >-
    sum(rate(vilam3_requests_total{ {{- $here }},service="{{ $service }}",outcome="failed"}[5m]))
    / sum(rate(vilam3_requests_total{ {{- $here }},service="{{ $service }}"}[5m])) > 0.05
  for: 5m
  severity: critical
  summary: More than 5 % of the questions fail.
  description: Callers get errors instead of answers.
  runbook: answers-fail.md
- name: VilaM3AnswersDegraded
  expr: >-
    sum(rate(vilam3_requests_total{ {{- $here }},service="{{ $service }}",outcome="degraded"}[15m]))
    / sum(rate(vilam3_requests_total{ {{- $here }},service="{{ $service }}"}[15m])) > 0.1
  for: 15m
  severity: warning
  summary: Answers come without their experts.
  description: More than one answer in ten says that an expert was not available, failed or was too slow.
  runbook: answers-fail.md
- name: VilaM3CallersTurnedAway
  expr: sum(rate(vilam3_requests_busy_total{ {{- $here }},service="{{ $service }}",full="queue"}[5m])) > 0.1
  for: 5m
  severity: warning
  summary: Callers are told to come back later.
  description: The endpoint has had no place for one question in ten seconds or more, for five minutes; its replicas do not keep up.
  runbook: expert-queue-long.md
- name: VilaM3ExpertQueueLong
  expr: sum by (expert) (vilam3_queue_depth{ {{- $here }},service="{{ $service }}"}) > {{ $monitoring.queueDepthAlert }}
  for: 10m
  severity: warning
  summary: Calls wait for an expert.
  description: More than {{ $monitoring.queueDepthAlert }} calls have waited for one expert for ten minutes; its replicas do not keep up.
  runbook: expert-queue-long.md
- name: VilaM3ExpertSlow
  expr: >-
    histogram_quantile(0.95, sum by (expert, le) (rate(vilam3_expert_seconds_bucket{ {{- $here }},service="{{ $service }}"}[15m])))
    > {{ $monitoring.expertSecondsAlert }}
  for: 15m
  severity: warning
  summary: An expert takes long.
  description: One call in twenty takes longer than {{ $monitoring.expertSecondsAlert }} s; answers reach their deadline without it.
  runbook: expert-queue-long.md
{{- end }}
