package pod

const (
	noDevices   = "there is no driver for dynamic resource allocation on this node"
	noHugePages = "podrun does not give out huge pages"
	noSCTP      = "podrun forwards TCP and UDP, not SCTP, from the host"
	noHostPorts = "host ports are those of containers and sidecars; this one ends before they run"
	noAppArmor  = "podrun loads no AppArmor profile; a Localhost one is applied, or refused where the host has no AppArmor"
	noSELinux   = "the host has no SELinux; where it has, the field is refused"
)

// everyContainer is where containers are; both lists have the same fields.
const everyContainer = "spec.{containers,initContainers}."

var containerFields = section{"Containers", everyContainer, []rule{
	{Supported, "{name,image,imagePullPolicy}", ""},
	{Supported, "{command,args}", "with `$(VAR)` and `$$`"},
	{Supported, "{workingDir,stdin,stdinOnce,tty}", ""},
	{Supported, "ports.{name,containerPort,protocol}", ""},
	{Supported, "ports.{hostPort,hostIP}", "TCP and UDP; every address of the host by default: docs/host-ports.md"},
	{Supported, "restartPolicy", ""},
	{Supported, "restartPolicyRules.{action,exitCodes.{operator,values}}", "`Restart` and `RestartAllContainers`"},
	{Supported, "{terminationMessagePath,terminationMessagePolicy}", ""},
	{Supported, "resources.{limits,requests}.{cpu,memory}", "where a cgroup is delegated; else a condition of the pod says so"},
	{NoEffect, "resources.{limits,requests}.ephemeral-storage", "podrun does not measure what containers write"},
	{Refused, "resources.{limits,requests}.hugepages-*", noHugePages},
	{Refused, "resources.{limits,requests}.extended", "there is no device plugin on this node that gives it out"},
	{Refused, "resources.claims.*", noDevices},
	{NoEffect, "resizePolicy.*", "podrun does not resize running containers"},
	{Refused, "volumeDevices.*", "podrun has no block volumes"},
}}

var envFields = section{"Environment", everyContainer, []rule{
	{Supported, "env.{name,value}", "with `$(VAR)` and `$$`"},
	{Supported, "env.valueFrom.fieldRef.{apiVersion,fieldPath}", ""},
	{Supported, "env.valueFrom.resourceFieldRef.{containerName,resource,divisor}", ""},
	{Supported, "env.valueFrom.{configMapKeyRef,secretKeyRef}.{name,key,optional}", ""},
	{Supported, "env.valueFrom.fileKeyRef.{volumeName,path,key,optional}", ""},
	{Supported, "envFrom.{prefix,{configMapRef,secretRef}.{name,optional}}", ""},
}}

var mountFields = section{"Mounts", everyContainer + "volumeMounts.", []rule{
	{Supported, "{name,mountPath,readOnly}", ""},
	{Supported, "{subPath,subPathExpr}", "never outside the volume, whatever links are in it"},
	{Supported, "{mountPropagation,recursiveReadOnly}", ""},
	{Refused, "bindMountOptions", alpha},
}}

var probeFields = section{"Probes", everyContainer + "{startupProbe,livenessProbe,readinessProbe}.", []rule{
	{Supported, "{initialDelaySeconds,timeoutSeconds,periodSeconds,successThreshold,failureThreshold}", ""},
	{Supported, "terminationGracePeriodSeconds", ""},
	{Supported, "exec.command", ""},
	{Supported, "httpGet.{path,port,host,scheme,httpHeaders.{name,value}}", "made by the node"},
	{Supported, "tcpSocket.{port,host}", "made by the node"},
	{Supported, "grpc.{port,service}", "made by the node"},
	{Refused, "{httpGet.protocol,grpc.mode}", alpha},
}}

var hookFields = section{"Lifecycle", everyContainer + "lifecycle.", []rule{
	{Supported, "{postStart,preStop}.exec.command", ""},
	{Supported, "{postStart,preStop}.httpGet.{path,port,host,scheme,httpHeaders.{name,value}}", "made by the node"},
	{Refused, "{postStart,preStop}.httpGet.protocol", alpha},
	{Refused, "{postStart,preStop}.tcpSocket.*", "Kubernetes never made tcpSocket hooks work; use exec or httpGet"},
	{Supported, "{postStart,preStop}.sleep.seconds", ""},
	{Supported, "stopSignal", ""},
}}

var securityFields = section{"Security of containers", everyContainer + "securityContext.", []rule{
	{Supported, "{runAsUser,runAsGroup,runAsNonRoot}", ""},
	{Supported, "capabilities.{add,drop}", ""},
	{Supported, "privileged", "what the user that podrun runs as can give: docs/security.md"},
	{Supported, "{allowPrivilegeEscalation,readOnlyRootFilesystem,procMount}", ""},
	{Supported, "seccompProfile.type", "`RuntimeDefault` where nothing is said"},
	{Supported, "seccompProfile.localhostProfile", "below `seccomp` in the data directory"},
	{NoEffect, "appArmorProfile.*", noAppArmor},
	{NoEffect, "seLinuxOptions.*", noSELinux},
	{Refused, "windowsOptions.*", notWindows},
}}
