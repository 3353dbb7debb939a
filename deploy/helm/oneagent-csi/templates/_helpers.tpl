{{/* What all pods run. */}}
{{- define "oneagent.image" -}}
{{- with .Values.image -}}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{ end -}}
{{- end -}}
{{- end -}}

{{/* By what the pods of a part are found. Takes the part's name. */}}
{{- define "oneagent.labels" -}}
app.kubernetes.io/name: oneagent-csi, app.kubernetes.io/component: {{ . }}
{{- end -}}

{{/* Lines of a pod's `metadata`. Takes the part's name, its values, and annotations of our own. */}}
{{- define "oneagent.podMetadata" -}}
{{- $labels := dict "app.kubernetes.io/name" "oneagent-csi" "app.kubernetes.io/component" .name -}}
labels: {{ mergeOverwrite (deepCopy .values.podLabels) $labels | toYaml | nindent 2 }}
{{- with mergeOverwrite (deepCopy (.annotations | default dict)) .values.podAnnotations }}
annotations: {{ toYaml . | nindent 2 }}
{{- end }}
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
{{- with .root.Values.image.pullSecrets }}
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

{{/* Of a container that needs no right at all. */}}
{{- define "oneagent.bare" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* Whether packages are served: "yes", or empty. Their certificates need the key of a CA, which cert-manager keeps. */}}
{{- define "oneagent.packages" -}}
{{- if and .Values.packages.enabled (eq .Values.certificates.issuer "self") }}yes{{ end -}}
{{- end -}}
