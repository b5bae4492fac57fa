package test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write testdata anew; look at the difference before committing it")

// cases are installations, by the name of their file in testdata.
var cases = map[string]map[string]any{
	"founding": {"auth": map[string]any{"password": `a "quoted" secret`}, "confmaster": map[string]any{"founding": true}},
	"secured": {"auth": map[string]any{"password": "x"}, "tls": map[string]any{"enabled": true, "clientAuth": "optional",
		"secrets": map[string]any{"nodes": "tls-nodes", "confmasters": "tls-confmasters", "smrctl": "tls-smrctl"}}},
	"standard": {"auth": map[string]any{"existingSecret": "redis-password"}},
	"everything": {
		"auth":           map[string]any{"enabled": false},
		"cluster":        "prod",
		"antiAffinity":   "preferred",
		"image":          map[string]any{"registry": "registry.example/lockstep", "tag": "v9", "pullSecrets": []any{map[string]any{"name": "pull"}}},
		"serviceMonitor": map[string]any{"enabled": true, "labels": map[string]any{"release": "prometheus"}},
		"service":        map[string]any{"type": "LoadBalancer", "annotations": map[string]any{"a": "b"}},
		"confmaster": map[string]any{"replicas": 5, "extraArgs": []any{"--drop-ms=9000"}, "nodeSelector": map[string]any{"disk": "ssd"},
			"storage": map[string]any{"className": "fast"}},
		"node": map[string]any{"replicas": 5, "copies": 3, "minCopies": 2, "sync": "interval", "tolerations": []any{map[string]any{"operator": "Exists"}},
			"replicator": map[string]any{"extraArgs": []any{"--file-size=128MiB"}}, "kvnode": map[string]any{"extraArgs": []any{"--timeout=5m"}}},
	},
	"alone": {"auth": map[string]any{"password": "x"}, "antiAffinity": "none", "networkPolicy": map[string]any{"enabled": false},
		"confmaster": map[string]any{"replicas": 1}, "node": map[string]any{"replicas": 1}},
}

func load(t *testing.T) *chart.Chart {
	t.Helper()
	c, err := loader.Load("../lockstep")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// render returns the manifests in the order of their files, as `helm template demo --namespace shop` shows them.
func render(c *chart.Chart, values map[string]any) (string, error) {
	capabilities := chartutil.DefaultCapabilities.Copy()
	capabilities.KubeVersion = chartutil.KubeVersion{Version: "v1.31.0", Major: "1", Minor: "31"}
	all, err := chartutil.ToRenderValues(c, values, chartutil.ReleaseOptions{Name: "demo", Namespace: "shop", Revision: 1, IsInstall: true}, capabilities)
	if err != nil {
		return "", err
	}
	files, err := engine.Engine{Strict: true}.Render(c, all)
	if err != nil {
		return "", err
	}
	var names []string
	for name := range files {
		if strings.HasSuffix(name, ".yaml") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	var out strings.Builder
	for _, name := range names {
		if text := strings.TrimSpace(files[name]); text != "" {
			fmt.Fprintf(&out, "---\n# %s\n%s\n", strings.TrimPrefix(name, "lockstep/templates/"), text)
		}
	}
	return out.String(), nil
}

// serviceMonitor is the part of the Prometheus operator's resource that the chart uses.
type serviceMonitor struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		Selector  metav1.LabelSelector `json:"selector"`
		Endpoints []struct {
			Port     string `json:"port"`
			Interval string `json:"interval"`
		} `json:"endpoints"`
	} `json:"spec"`
}

// cluster is what a rendering asks for.
type cluster struct {
	services []*corev1.Service
	secrets  []*corev1.Secret
	sets     []*appsv1.StatefulSet
	budgets  []*policyv1.PodDisruptionBudget
	policies []*networkingv1.NetworkPolicy
	jobs     []*batchv1.Job
	monitors []*serviceMonitor
}

// decode reads manifests into the types of Kubernetes; a field that they do not have is an error.
func decode(text string) (*cluster, error) {
	c := &cluster{}
	for _, document := range strings.Split(text, "\n---\n") {
		var kind metav1.TypeMeta
		if err := yaml.Unmarshal([]byte(document), &kind); err != nil {
			return nil, err
		}
		var err error
		switch kind.APIVersion + " " + kind.Kind {
		case "v1 Service":
			c.services, err = into(c.services, document)
		case "v1 Secret":
			c.secrets, err = into(c.secrets, document)
		case "apps/v1 StatefulSet":
			c.sets, err = into(c.sets, document)
		case "policy/v1 PodDisruptionBudget":
			c.budgets, err = into(c.budgets, document)
		case "networking.k8s.io/v1 NetworkPolicy":
			c.policies, err = into(c.policies, document)
		case "batch/v1 Job":
			c.jobs, err = into(c.jobs, document)
		case "monitoring.coreos.com/v1 ServiceMonitor":
			c.monitors, err = into(c.monitors, document)
		default:
			err = errors.New("of an unknown kind")
		}
		if err != nil {
			return nil, fmt.Errorf("%s %s: %w\n%s", kind.APIVersion, kind.Kind, err, document)
		}
	}
	return c, nil
}

func into[T any](list []*T, document string) ([]*T, error) {
	value := new(T)
	err := yaml.UnmarshalStrict([]byte(document), value)
	return append(list, value), err
}

// What could go wrong: a template renders text that Kubernetes does not take or silently drops, or a change of the chart changes more
// than was meant. Every case is decoded strictly, its parts must fit together, and it must be what testdata says.
func TestChartRendersWhatIsOnRecord(t *testing.T) {
	c := load(t)
	for name, values := range cases {
		t.Run(name, func(t *testing.T) {
			text, err := render(c, values)
			if err != nil {
				t.Fatal(err)
			}
			decoded, err := decode(text)
			if err != nil {
				t.Fatal(err)
			}
			for _, problem := range decoded.problems() {
				t.Error(problem)
			}
			path := filepath.Join("testdata", name+".yaml")
			if *update {
				if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			recorded, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(recorded, []byte(text)) {
				t.Errorf("%s is not what the chart renders: look at `go test -update` and git diff in deploy/helm/test", path)
			}
		})
	}
}

// What could go wrong: a wrong value is taken, and shows as a pod that does not start.
func TestWrongValuesAreRefused(t *testing.T) {
	c := load(t)
	for want, values := range map[string]map[string]any{
		"auth.password or auth.existingSecret is missing": {},
		"suspectms":                 {"auth": map[string]any{"password": "x"}, "confmaster": map[string]any{"suspectms": 1}},
		"replicas":                  {"auth": map[string]any{"password": "x"}, "confmaster": map[string]any{"replicas": 2}},
		"sync":                      {"auth": map[string]any{"password": "x"}, "node": map[string]any{"sync": "never"}},
		"is missing: name a Secret": {"auth": map[string]any{"password": "x"}, "tls": map[string]any{"enabled": true, "secrets": map[string]any{"nodes": "x", "smrctl": "x"}}},
		"clientAuth":                {"auth": map[string]any{"password": "x"}, "tls": map[string]any{"clientAuth": "sometimes"}},
		"size":                      {"auth": map[string]any{"password": "x"}, "node": map[string]any{"storage": map[string]any{"size": "20"}}},
		"extraArgs":                 {"auth": map[string]any{"password": "x"}, "node": map[string]any{"kvnode": map[string]any{"extraArgs": []any{"timeout 5m"}}}},
	} {
		if _, err := render(c, values); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %q is missing in: %v", values, want, err)
		}
	}
}
