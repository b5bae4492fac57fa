{{- define "lockstep.name" -}}
{{- if contains "lockstep" .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-lockstep" .Release.Name | trunc 40 | trimSuffix "-" }}{{ end -}}
{{- end }}

{{- define "lockstep.cluster" -}}
{{ .Values.cluster | default (printf "%s-%s" .Release.Namespace .Release.Name) }}
{{- end }}

{{- define "lockstep.labels" -}}
app.kubernetes.io/name: lockstep
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "lockstep.meta" -}}
{{ include "lockstep.labels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{/* image of a program: list . "kvnode" */}}
{{- define "lockstep.image" -}}
{{- $root := index . 0 -}}
{{ printf "%s/%s:%s" $root.Values.image.registry (index . 1) ($root.Values.image.tag | default $root.Chart.AppVersion) }}
{{- end }}

{{/* DNS domain below which the pods of a StatefulSet have their names: list . "confmaster" */}}
{{- define "lockstep.domain" -}}
{{- $root := index . 0 -}}
{{ printf "%s-%s.%s.svc.%s" (include "lockstep.name" $root) (index . 1) $root.Release.Namespace $root.Values.clusterDomain }}
{{- end }}

{{/* addresses of the configuration masters, HOST:PORT,… */}}
{{- define "lockstep.masters" -}}
{{- $addresses := list -}}
{{- range $i := untilStep 1 (int (add1 .Values.confmaster.replicas)) 1 -}}
{{- $addresses = append $addresses (printf "%s-confmaster-%d.%s:7300" (include "lockstep.name" $) $i (include "lockstep.domain" (list $ "confmaster"))) -}}
{{- end -}}
{{ join "," $addresses }}
{{- end }}

{{/* the same with numbers, 1=HOST:PORT,… */}}
{{- define "lockstep.peers" -}}
{{- $peers := list -}}
{{- range $i, $address := splitList "," (include "lockstep.masters" .) -}}
{{- $peers = append $peers (printf "%d=%s" (add1 $i) $address) -}}
{{- end -}}
{{ join "," $peers }}
{{- end }}

{{- define "lockstep.podSecurity" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.image.pullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "lockstep.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{/* where pods of a kind may stand: list . "node" */}}
{{- define "lockstep.placement" -}}
{{- $root := index . 0 -}}
{{- $kind := index . 1 -}}
{{- $values := index $root.Values $kind -}}
{{- $term := dict "topologyKey" "kubernetes.io/hostname" "labelSelector" (dict "matchLabels" (dict "app.kubernetes.io/name" "lockstep" "app.kubernetes.io/instance" $root.Release.Name "app.kubernetes.io/component" $kind)) -}}
{{- if eq $root.Values.antiAffinity "required" }}
affinity: {{ dict "podAntiAffinity" (dict "requiredDuringSchedulingIgnoredDuringExecution" (list $term)) | toYaml | nindent 2 }}
{{- else if eq $root.Values.antiAffinity "preferred" }}
affinity: {{ dict "podAntiAffinity" (dict "preferredDuringSchedulingIgnoredDuringExecution" (list (dict "weight" 100 "podAffinityTerm" $term))) | toYaml | nindent 2 }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* health of a container whose HTTP port has the name given */}}
{{- define "lockstep.probes" -}}
startupProbe:
  httpGet: {path: /livez, port: {{ . }}}
  periodSeconds: 2
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /livez, port: {{ . }}}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /readyz, port: {{ . }}}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 3
{{- end }}

{{/* the Secret with the certificates of some: list . "nodes" */}}
{{- define "lockstep.tlsVolume" -}}
{{- $root := index . 0 -}}
{{- $key := index . 1 -}}
- name: tls
  secret:
    secretName: {{ required (printf "tls.secrets.%s is missing: name a Secret with ca.crt and the certificates and keys of these pods" $key) (index $root.Values.tls.secrets $key) }}
    defaultMode: 0440
{{- end }}

{{- define "lockstep.storage" -}}
spec:
  accessModes: [ReadWriteOnce]
  {{- with .className }}
  storageClassName: {{ . }}
  {{- end }}
  resources:
    requests: {storage: {{ .size }}}
{{- end }}
