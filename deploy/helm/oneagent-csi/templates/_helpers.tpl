{{/* What all pods run. */}}
{{- define "oneagent.image" -}}
{{- with .Values.image -}}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{ end -}}
{{- end -}}
{{- end -}}

{{/* By what the pods of a part are found, as a flow mapping's content. Takes the part's name. It never changes: Kubernetes
refuses another selector of a DaemonSet or a Deployment. */}}
{{- define "oneagent.selector" -}}
app.kubernetes.io/name: oneagent-csi, app.kubernetes.io/component: {{ . }}
{{- end -}}

{{/* Secrets with credentials for the image, as JSON: our own, and those of the chart that this one is a part of, which may
be names only. */}}
{{- define "oneagent.pullSecrets" -}}
{{- $secrets := .Values.image.pullSecrets -}}
{{- range (.Values.global | default dict).imagePullSecrets -}}
{{- $secrets = append $secrets (kindIs "string" . | ternary (dict "name" .) .) -}}
{{- end -}}
{{- dict "list" (uniq $secrets) | toJson -}}
{{- end -}}

{{/* Recommended labels, as JSON. Takes the root, and the part's name if the object belongs to one. */}}
{{- define "oneagent.labels" -}}
{{- $labels := dict
  "app.kubernetes.io/name" "oneagent-csi"
  "app.kubernetes.io/instance" .root.Release.Name
  "app.kubernetes.io/version" .root.Chart.AppVersion
  "app.kubernetes.io/part-of" "oneagent-csi" -}}
{{- with .part }}{{ $_ := set $labels "app.kubernetes.io/component" . }}{{ end -}}
{{- toJson $labels -}}
{{- end -}}

{{/* Labels and annotations of an object. Takes the root, the part's name, and labels and annotations of the object's own. */}}
{{- define "oneagent.metadata" -}}
{{- $labels := include "oneagent.labels" . | fromJson -}}
{{- $_ := set $labels "app.kubernetes.io/managed-by" .root.Release.Service -}}
{{- $_ := set $labels "helm.sh/chart" (printf "%s-%s" .root.Chart.Name (.root.Chart.Version | replace "+" "_")) -}}
labels: {{ mergeOverwrite (deepCopy .root.Values.commonLabels) (.labels | default dict) $labels | toYaml | nindent 2 }}
{{- with mergeOverwrite (deepCopy .root.Values.commonAnnotations) (.annotations | default dict) }}
annotations: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Lines of a pod's `metadata`. Takes the root, the part's name, its values, and annotations of our own. Without the
chart's version: a chart that changes nothing about a pod does not replace it. */}}
{{- define "oneagent.podMetadata" -}}
{{- $labels := include "oneagent.labels" . | fromJson -}}
labels: {{ mergeOverwrite (deepCopy .root.Values.commonLabels) .values.podLabels $labels | toYaml | nindent 2 }}
{{- with mergeOverwrite (deepCopy (.annotations | default dict)) .values.podAnnotations }}
annotations: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The name of a part's ServiceAccount. Takes the root and the part's name, in a list. */}}
{{- define "oneagent.account" -}}
{{- $part := last . -}}
{{- $values := get (first .).Values (replace "-driver" "driver" $part) -}}
{{- $values.serviceAccount.name | default (printf "oneagent-%s" $part) -}}
{{- end -}}

{{/* A mapping with what was chosen laid over our own, as YAML. Takes both, in a list. */}}
{{- define "oneagent.over" -}}
{{- mergeOverwrite (deepCopy (first .)) (last .) | toYaml -}}
{{- end -}}

{{/* How pods are spread, as JSON: what was chosen, with the part's own pods unless it says which. Takes the part's name, what
was chosen and our own, in a list. */}}
{{- define "oneagent.spread" -}}
{{- $part := first . -}}
{{- $own := dict "matchLabels" (dict "app.kubernetes.io/name" "oneagent-csi" "app.kubernetes.io/component" $part) -}}
{{- $constraints := list -}}
{{- range (index . 1) | default (last .) -}}
{{- $constraints = append $constraints (merge (deepCopy .) (hasKey . "labelSelector" | ternary dict (dict "labelSelector" $own))) -}}
{{- end -}}
{{- dict "list" $constraints | toJson -}}
{{- end -}}

{{/* A mapping of flags as arguments: `keep-logs: true` is --keep-logs, `false` --no-keep-logs. */}}
{{- define "oneagent.flags" -}}
{{- range $flag, $value := . }}
{{- if kindIs "bool" $value }}
- --{{ ternary "" "no-" $value }}{{ $flag }}
{{- else if kindIs "float64" $value }}
- --{{ $flag }}={{ int64 $value }}
{{- else }}
- {{ printf "--%s=%s" $flag (toString $value) | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{/* How images of agents are reached, as arguments of the provisioner and of the operator, which have to agree. */}}
{{- define "oneagent.registries" -}}
{{- with .mirrors }}
- {{ printf "--registry-mirrors=%s" (join "," .) | quote }}
{{- end }}
{{- with .plainHttp }}
- {{ printf "--registry-plain-http=%s" (join "," .) | quote }}
{{- end }}
{{- with .allow }}
- {{ printf "--registry-allow=%s" (join "," .) | quote }}
{{- end }}
{{- with .realms }}
- {{ printf "--registry-realms=%s" (join "," .) | quote }}
{{- end }}
{{- end -}}

{{/* Proxy and CA bundle of DynaKubes that name none, as arguments of the provisioner and of the operator. */}}
{{- define "oneagent.network" -}}
{{- with .Values.proxy.url }}
- {{ printf "--default-proxy=%s" . | quote }}
{{- end }}
{{- with .Values.proxy.secret }}
- --default-proxy-secret={{ . }}
{{- end }}
{{- with .Values.proxy.noProxy }}
- {{ printf "--default-no-proxy=%s" (join "," .) | quote }}
{{- end }}
{{- with .Values.trustedCAs }}
- --default-trusted-cas={{ . }}
{{- end }}
{{- end -}}

{{/* Lines of a pod's `spec` that say where it may run. Takes the root, the part's values, and its tolerations. */}}
{{- define "oneagent.placement" -}}
{{- with .values.priorityClassName | default (and .root.Values.priorityClass.create .root.Values.priorityClass.name) }}
priorityClassName: {{ . }}
{{- end }}
nodeSelector: {{ mergeOverwrite (dict "kubernetes.io/os" "linux") .values.nodeSelector | toYaml | nindent 2 }}
{{- with .tolerations }}
tolerations: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .values.affinity }}
affinity: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with (include "oneagent.pullSecrets" .root | fromJson).list }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The tolerations of operator and webhook: without them, no node would ever lose the startup taint. */}}
{{- define "oneagent.tolerations" -}}
{{- $tolerations := .values.tolerations -}}
{{- with .root.Values.startupTaint -}}
{{- $parts := splitList ":" . -}}
{{- $tolerations = append $tolerations (dict "key" (first $parts) "effect" (last $parts) "operator" "Exists") -}}
{{- end -}}
{{- dict "list" $tolerations | toJson -}}
{{- end -}}

{{/* The context of a container that needs no right at all. Takes what was chosen. */}}
{{- define "oneagent.bare" -}}
{{- $bare := dict
  "allowPrivilegeEscalation" false "readOnlyRootFilesystem" true "capabilities" (dict "drop" (list "ALL")) -}}
{{- include "oneagent.over" (list $bare .) -}}
{{- end -}}

{{/* Whether packages are served: "yes", or empty. Their certificates need the key of a CA, which cert-manager keeps. */}}
{{- define "oneagent.packages" -}}
{{- if and .Values.packages.enabled (eq .Values.certificates.issuer "self") }}yes{{ end -}}
{{- end -}}
