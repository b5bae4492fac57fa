package test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// problems returns what does not fit together.
func (c *cluster) problems() []string {
	var list []string
	bad := func(format string, arguments ...any) { list = append(list, fmt.Sprintf(format, arguments...)) }
	for _, set := range c.sets {
		c.checkSet(set, bad)
	}
	for _, service := range c.services {
		c.checkService(service, bad)
	}
	for _, budget := range c.budgets {
		if len(c.selected(budget.Spec.Selector)) != 1 {
			bad("disruption budget %s covers %d StatefulSets", budget.Name, len(c.selected(budget.Spec.Selector)))
		}
	}
	for _, policy := range c.policies {
		if len(c.selected(&policy.Spec.PodSelector)) != len(c.sets) {
			bad("network policy %s misses pods", policy.Name)
		}
		for _, port := range c.ports() {
			if !slices.ContainsFunc(policy.Spec.Ingress, func(rule networkingv1.NetworkPolicyIngressRule) bool {
				return slices.ContainsFunc(rule.Ports, func(p networkingv1.NetworkPolicyPort) bool { return p.Port.IntVal == port })
			}) {
				bad("network policy %s lets nobody reach port %d", policy.Name, port)
			}
		}
	}
	for _, monitor := range c.monitors {
		for _, endpoint := range monitor.Spec.Endpoints {
			if !slices.ContainsFunc(c.services, func(s *corev1.Service) bool {
				return slices.ContainsFunc(s.Spec.Ports, func(p corev1.ServicePort) bool { return p.Name == endpoint.Port })
			}) {
				bad("service monitor %s reads port %s, which no Service has", monitor.Name, endpoint.Port)
			}
		}
	}
	for _, job := range c.jobs {
		c.checkAddresses(job.Name, &job.Spec.Template, bad)
		checkPod(job.Name, &job.Spec.Template, bad)
	}
	if len(c.sets) != 2 || len(c.budgets) != 2 || len(c.jobs) != 1 {
		bad("%d StatefulSets, %d budgets, %d Jobs", len(c.sets), len(c.budgets), len(c.jobs))
	}
	return list
}

func (c *cluster) checkSet(set *appsv1.StatefulSet, bad func(string, ...any)) {
	if len(c.selected(set.Spec.Selector)) != 1 {
		bad("StatefulSet %s selects pods of %d sets", set.Name, len(c.selected(set.Spec.Selector)))
	}
	if !slices.ContainsFunc(c.services, func(s *corev1.Service) bool {
		return s.Name == set.Spec.ServiceName && s.Spec.ClusterIP == "None" && s.Spec.PublishNotReadyAddresses
	}) {
		bad("StatefulSet %s has no headless Service %s", set.Name, set.Spec.ServiceName)
	}
	if set.Spec.Ordinals == nil || set.Spec.Ordinals.Start != 1 {
		bad("StatefulSet %s does not number its pods from 1", set.Name)
	}
	checkPod(set.Name, &set.Spec.Template, bad)
	c.checkAddresses(set.Name, &set.Spec.Template, bad)
	for _, container := range set.Spec.Template.Spec.Containers {
		for _, probe := range []*corev1.Probe{container.StartupProbe, container.LivenessProbe, container.ReadinessProbe} {
			if probe == nil || probe.HTTPGet == nil || !hasPort(container, probe.HTTPGet.Port) {
				bad("%s of %s: a probe is missing, or asks a port that it has not", container.Name, set.Name)
			}
		}
		checkSecured(set.Name, container, bad)
		for _, mount := range container.VolumeMounts {
			claimed := slices.ContainsFunc(set.Spec.VolumeClaimTemplates, func(v corev1.PersistentVolumeClaim) bool { return v.Name == mount.Name })
			if !claimed && !slices.ContainsFunc(set.Spec.Template.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == mount.Name }) {
				bad("%s of %s mounts %s, which there is not", container.Name, set.Name, mount.Name)
			}
		}
	}
	for _, volume := range set.Spec.Template.Spec.Volumes {
		if volume.Secret != nil && strings.HasSuffix(volume.Secret.SecretName, "-auth") &&
			(len(c.secrets) != 1 || c.secrets[0].Name != volume.Secret.SecretName || c.secrets[0].StringData["kvnode.conf"] == "") {
			bad("%s wants the Secret %s, which there is not", set.Name, volume.Secret.SecretName)
		}
	}
}

// checkSecured holds the certificates in a container's arguments against what it mounts. With them nothing listens without TLS.
func checkSecured(set string, container corev1.Container, bad func(string, ...any)) {
	files, insecure := 0, false
	for _, argument := range container.Args {
		flag, value, _ := strings.Cut(argument, "=")
		switch flag {
		case "--tls-ca", "--tls-cert", "--tls-key":
			files++
			if !slices.ContainsFunc(container.VolumeMounts, func(m corev1.VolumeMount) bool { return m.ReadOnly && strings.HasPrefix(value, m.MountPath+"/") }) {
				bad("%s of %s reads %s, which is not mounted", container.Name, set, value)
			}
		case "--insecure":
			insecure = true
		case "--listen", "--sentinel":
			insecure = insecure || value != "" && files > 0
		}
	}
	if files != 0 && files != 3 || insecure == (files == 3) {
		bad("%s of %s has %d files for TLS; a port without TLS: %v", container.Name, set, files, insecure)
	}
}

// checkPod holds a pod against the restricted profile of Kubernetes' pod security.
func checkPod(name string, pod *corev1.PodTemplateSpec, bad func(string, ...any)) {
	spec := pod.Spec
	if spec.AutomountServiceAccountToken == nil || *spec.AutomountServiceAccountToken {
		bad("pods of %s have a token of the API server", name)
	}
	if s := spec.SecurityContext; s == nil || s.RunAsNonRoot == nil || !*s.RunAsNonRoot || s.RunAsUser == nil || *s.RunAsUser == 0 ||
		s.SeccompProfile == nil || s.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
		bad("pods of %s may run as root, or without seccomp", name)
	}
	for _, container := range spec.Containers {
		s := container.SecurityContext
		if s == nil || s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation || s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem ||
			s.Capabilities == nil || !slices.Contains(s.Capabilities.Drop, "ALL") {
			bad("%s of %s has more rights than it needs", container.Name, name)
		}
		if container.Resources.Requests.Memory().IsZero() || container.Resources.Limits.Memory().IsZero() {
			bad("%s of %s has no bounds of memory", container.Name, name)
		}
	}
}

// checkAddresses holds every name of a pod in the arguments against the pods that there will be, and its port against theirs.
func (c *cluster) checkAddresses(name string, pod *corev1.PodTemplateSpec, bad func(string, ...any)) {
	known := make(map[string][]int32) // host of a pod: its ports
	for _, set := range c.sets {
		var ports []int32
		for _, container := range set.Spec.Template.Spec.Containers {
			for _, p := range container.Ports {
				ports = append(ports, p.ContainerPort)
			}
		}
		domain := "." + set.Spec.ServiceName + ".shop.svc.cluster.local"
		known["$(POD_NAME)"+domain] = ports
		for i := range *set.Spec.Replicas {
			known[fmt.Sprintf("%s-%d%s", set.Name, i+set.Spec.Ordinals.Start, domain)] = ports
		}
	}
	found := 0
	for _, container := range pod.Spec.Containers {
		for _, argument := range container.Args {
			for _, part := range strings.FieldsFunc(argument, func(r rune) bool { return r == '=' || r == ',' }) {
				if !strings.Contains(part, ".svc.") {
					continue
				}
				found++
				host, port, hasPort := strings.Cut(part, ":")
				number, _ := strconv.Atoi(port)
				if ports, ok := known[host]; !ok || hasPort && !slices.Contains(ports, int32(number)) {
					bad("%s of %s: nobody listens on %s", container.Name, name, part)
				}
			}
		}
	}
	if found == 0 {
		bad("no address in the arguments of %s", name)
	}
}

func (c *cluster) checkService(service *corev1.Service, bad func(string, ...any)) {
	sets := c.selected(&metav1.LabelSelector{MatchLabels: service.Spec.Selector})
	if len(sets) != 1 {
		bad("Service %s selects pods of %d sets", service.Name, len(sets))
		return
	}
	for _, port := range service.Spec.Ports {
		if !slices.ContainsFunc(sets[0].Spec.Template.Spec.Containers, func(container corev1.Container) bool { return hasPort(container, port.TargetPort) }) {
			bad("Service %s: no container has port %s", service.Name, port.TargetPort.String())
		}
	}
}

// selected returns the sets whose pods a selector chooses.
func (c *cluster) selected(selector *metav1.LabelSelector) []*appsv1.StatefulSet {
	s, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		return nil
	}
	var list []*appsv1.StatefulSet
	for _, set := range c.sets {
		if s.Matches(labels.Set(set.Spec.Template.Labels)) {
			list = append(list, set)
		}
	}
	return list
}

// ports returns all ports of all containers.
func (c *cluster) ports() []int32 {
	var list []int32
	for _, set := range c.sets {
		for _, container := range set.Spec.Template.Spec.Containers {
			for _, p := range container.Ports {
				list = append(list, p.ContainerPort)
			}
		}
	}
	return list
}

func hasPort(container corev1.Container, port intstr.IntOrString) bool {
	return slices.ContainsFunc(container.Ports, func(p corev1.ContainerPort) bool {
		return p.Name == port.StrVal && port.Type == intstr.String || p.ContainerPort == port.IntVal
	})
}
