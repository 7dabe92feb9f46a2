{{/* The value of app.kubernetes.io/name, by which the DaemonSet finds its Pods. */}}
{{- define "kbe-nat.name" -}}
{{- .Values.nameOverride | default .Chart.Name -}}
{{- end -}}

{{/* The name of every object. One proxy serves a node, so the release is no part of it. */}}
{{- define "kbe-nat.fullname" -}}
{{- .Values.fullnameOverride | default (include "kbe-nat.name" .) -}}
{{- end -}}

{{/* The configuration: what `kubeProxy` sets, and `config` over it. */}}
{{- define "kbe-nat.config" -}}
{{- $places := dict
      "absent" (dict)
      "replace" (dict "kbeNat" (dict "takeOver" true))
      "beside" (dict
        "healthzBindAddress" "0.0.0.0:10266"
        "metricsBindAddress" "127.0.0.1:10269"
        "kbeNat" (dict "serviceProxyName" "kbe-nat")) -}}
{{- $kind := dict
      "apiVersion" "kubeproxy.config.k8s.io/v1alpha1"
      "kind" "KubeProxyConfiguration" -}}
{{- mergeOverwrite $kind (get $places .Values.kubeProxy) (deepCopy .Values.config) | toYaml -}}
{{- end -}}

{{/* Where kubelet asks for health. A wildcard address is left to kubelet, which takes the node's. */}}
{{- define "kbe-nat.health" -}}
{{- $bind := (include "kbe-nat.config" . | fromYaml).healthzBindAddress | default "0.0.0.0:10256" -}}
{{- $host := regexReplaceAll ":[0-9]+$" $bind "" | trimPrefix "[" | trimSuffix "]" -}}
port: {{ regexFind "[0-9]+$" $bind }}
{{- if not (has $host (list "0.0.0.0" "::" "")) }}
host: {{ $host | quote }}
{{- end }}
{{- end -}}

{{- define "kbe-nat.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag }}{{ end }}
{{- end -}}
{{- end -}}

{{/* Not empty where the datapath may be every-packet, with rules of iptables. */}}
{{- define "kbe-nat.iptables" -}}
{{- $own := (include "kbe-nat.config" . | fromYaml).kbeNat | default dict -}}
{{- if not (has (get $own "datapath") (list "first-packet" "cached")) }}yes{{ end -}}
{{- end -}}

{{/* Not empty where the datapath may be cached, with programs on devices. */}}
{{- define "kbe-nat.cached" -}}
{{- $own := (include "kbe-nat.config" . | fromYaml).kbeNat | default dict -}}
{{- if not (has (get $own "datapath") (list "first-packet" "every-packet")) }}yes{{ end -}}
{{- end -}}
