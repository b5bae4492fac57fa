package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.yaml.in/yaml/v3"

	"lockstep/internal/local"
)

// web is a client whose connections do not outlive the test.
func web(t *testing.T) *http.Client {
	client := &http.Client{Timeout: patience, Transport: &http.Transport{}}
	t.Cleanup(client.CloseIdleConnections)
	return client
}

// securedWeb is the same for a cluster with TLS.
func (w *world) securedWeb(t *testing.T) *http.Client {
	client := web(t)
	client.Transport.(*http.Transport).TLSClientConfig = w.clientTLS(t)
	return client
}

func fetch(client *http.Client, url string) (code int, body string, err error) {
	answer, err := client.Get(url)
	if err != nil {
		return 0, "", err
	}
	defer answer.Body.Close()
	content, err := io.ReadAll(answer.Body)
	return answer.StatusCode, string(content), err
}

var (
	sampleLine = regexp.MustCompile(`^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)$`)
	labelPair  = regexp.MustCompile(`([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"`)
)

// learn adds what one process shows.
func (known vocabulary) learn(body string) error {
	lines := bufio.NewScanner(strings.NewReader(body))
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), "#") {
			continue
		}
		m := sampleLine.FindStringSubmatch(lines.Text())
		if m == nil {
			return fmt.Errorf("%q is no sample", lines.Text())
		}
		labels := known[m[1]]
		if labels == nil {
			labels = map[string]map[string]bool{"instance": {}, "job": {}} // which Prometheus adds
			known[m[1]] = labels
		}
		for _, pair := range labelPair.FindAllStringSubmatch(m[2], -1) {
			if labels[pair[1]] == nil {
				labels[pair[1]] = make(map[string]bool)
			}
			labels[pair[1]][pair[2]] = true
		}
	}
	return lines.Err()
}

// asked is a query with the words around it that name labels of its result.
type asked struct {
	where, query string
	texts        []string
}

var templated = regexp.MustCompile(`\{\{ ?(?:\$labels\.)?([a-z_]+) ?\}\}`)

// check returns what is wrong with a query.
func (known vocabulary) checkAsked(a asked) error {
	labels, err := known.check(a.query)
	if err != nil {
		return fmt.Errorf("%s: %s: %w", a.where, a.query, err)
	}
	for _, text := range a.texts {
		for _, m := range templated.FindAllStringSubmatch(text, -1) {
			if !slices.Contains(labels, m[1]) {
				return fmt.Errorf("%s: %q names the label %s, the result has %v", a.where, text, m[1], labels)
			}
		}
	}
	return nil
}

// rules are the parts of alerts.yaml that the test reads.
type rules struct {
	Groups []struct {
		Name  string
		Rules []struct {
			Alert, Expr, For    string
			Labels, Annotations map[string]string
		}
	}
}

// readRules returns the queries of the alerts and checks the rest of them.
func readRules(t *testing.T) (queries []asked) {
	t.Helper()
	content, err := os.ReadFile("../../deploy/prometheus/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var all rules
	decoder := yaml.NewDecoder(strings.NewReader(string(content)))
	decoder.KnownFields(true)
	if err := decoder.Decode(&all); err != nil {
		t.Fatal(err)
	}
	book, err := os.ReadFile("../../docs/runbooks.md")
	if err != nil {
		t.Fatal(err)
	}
	sections := strings.Split(string(book), "\n## ")[1:]
	for _, group := range all.Groups {
		for _, rule := range group.Rules {
			queries = append(queries, asked{where: "alert " + rule.Alert, query: rule.Expr, texts: []string{rule.Annotations["summary"]}})
			if rule.For != "" {
				if _, err := time.ParseDuration(rule.For); err != nil {
					t.Errorf("%s: %v", rule.Alert, err)
				}
			}
			if !slices.Contains([]string{"critical", "warning", "info"}, rule.Labels["severity"]) || rule.Annotations["summary"] == "" {
				t.Errorf("%s: no severity or no summary", rule.Alert)
			}
			if rule.Annotations["runbook"] != "docs/runbooks.md#"+strings.ToLower(rule.Alert) {
				t.Errorf("%s: runbook %q", rule.Alert, rule.Annotations["runbook"])
			}
			at := slices.IndexFunc(sections, func(section string) bool { return strings.HasPrefix(section, rule.Alert+"\n") })
			if at < 0 {
				t.Errorf("%s has no section in docs/runbooks.md", rule.Alert)
				continue
			}
			for _, part := range []string{"**Means.**", "**Look.**", "**Do.**"} {
				if !strings.Contains(sections[at], part) {
					t.Errorf("docs/runbooks.md, %s: no %s", rule.Alert, part)
				}
			}
			sections = slices.Delete(sections, at, at+1)
		}
	}
	for _, section := range sections {
		t.Errorf("docs/runbooks.md: there is no alert %.40q", section)
	}
	return queries
}

// readDashboard returns the queries of the dashboard.
func readDashboard(t *testing.T) (queries []asked) {
	t.Helper()
	content, err := os.ReadFile("../../deploy/grafana/lockstep.json")
	if err != nil {
		t.Fatal(err)
	}
	var board struct {
		UID    string
		Panels []struct {
			ID      int
			Type    string
			Title   string
			GridPos struct{ X, Y, W, H int }
			Targets []struct{ Expr, LegendFormat string }
		}
		Annotations struct {
			List []struct{ Name, Expr, TitleFormat string }
		}
		Templating struct {
			List []struct{ Name, Type, Query string }
		}
	}
	if err := json.Unmarshal(content, &board); err != nil {
		t.Fatal(err)
	}
	ids := make(map[int]bool)
	for _, panel := range board.Panels {
		if ids[panel.ID] || panel.GridPos.W == 0 || panel.GridPos.X+panel.GridPos.W > 24 {
			t.Errorf("panel %q: id %d, position %+v", panel.Title, panel.ID, panel.GridPos)
		}
		ids[panel.ID] = true
		if panel.Type != "row" && len(panel.Targets) == 0 {
			t.Errorf("panel %q asks for nothing", panel.Title)
		}
		for _, target := range panel.Targets {
			queries = append(queries, asked{where: "panel " + panel.Title, query: target.Expr, texts: []string{target.LegendFormat}})
		}
	}
	for _, a := range board.Annotations.List {
		queries = append(queries, asked{where: "annotation " + a.Name, query: a.Expr, texts: []string{a.TitleFormat}})
	}
	ask := regexp.MustCompile(`^label_values\((.*), ([a-z]+)\)$`)
	for _, v := range board.Templating.List {
		if v.Type != "query" {
			continue
		}
		m := ask.FindStringSubmatch(v.Query)
		if m == nil {
			t.Errorf("variable %s: %q", v.Name, v.Query)
			continue
		}
		queries = append(queries, asked{where: "variable " + v.Name, query: m[1], texts: []string{"{{" + m[2] + "}}"}})
	}
	return queries
}

var ownName = regexp.MustCompile(`\b(?:lockstep|redis)_[a-z_]+`)

// family is the name in the documentation of what stands in a line.
func family(name string) string {
	for _, suffix := range []string{"_bucket", "_sum", "_count"} {
		name = strings.TrimSuffix(name, suffix)
	}
	return name
}

// What could go wrong: an alert that can never fire, a panel that is always empty, a metric that nobody documents, a
// readiness that says yes twice. Every query of the alerts and the dashboard is parsed and held against what all processes
// of a running cluster show; docs/metrics.md must name what is shown, no more and no less; one node is ready as the master.
func TestDashboardsAskForWhatIsShown(t *testing.T) {
	t.Parallel()
	queries := append(readRules(t), readDashboard(t)...)
	if len(queries) < 50 {
		t.Fatalf("only %d queries were found", len(queries))
	}
	page, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	runbooks, err := os.ReadFile("../../docs/runbooks.md")
	if err != nil {
		t.Fatal(err)
	}
	w := start(t, local.Options{Archive: temporary(t), TLS: true}, map[local.Kind][]string{local.KindKVNode: {"--tier-memory", "64MiB"}}) // so that it shows all it can
	w.healthy(t)
	client := redis.NewClient(&redis.Options{Addr: w.Plan.Replicas[0].KVAddr, TLSConfig: w.clientTLS(t)})
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := client.Set(ctx, "a", 1, time.Hour).Err(); err != nil {
		t.Fatal(err)
	}
	if err := client.Do(ctx, "GET").Err(); err == nil {
		t.Fatal("GET without a key is answered")
	}
	browser := w.securedWeb(t)
	eventually(t, "every query finds what it asks for", func() error {
		known := vocabulary{"up": {"instance": {}, "job": {}}}
		for _, p := range w.Processes() {
			code, body, err := fetch(browser, "https://"+w.HTTPAddr(p)+"/metrics")
			if err != nil || code != http.StatusOK {
				return fmt.Errorf("%s: %d, %w: %s", p.Name, code, err, body)
			}
			if err := known.learn(body); err != nil {
				return fmt.Errorf("%s: %w", p.Name, err)
			}
		}
		var problems []error
		for _, query := range queries {
			problems = append(problems, known.checkAsked(query))
		}
		for name := range known {
			if ownName.MatchString(name) && !strings.Contains(string(page), "`"+family(name)+"`") {
				problems = append(problems, fmt.Errorf("docs/metrics.md does not know %s", family(name)))
			}
		}
		for _, name := range ownName.FindAllString(string(page)+string(runbooks), -1) {
			if known[name] == nil && known[name+"_bucket"] == nil && !strings.HasSuffix(name, "_") && name != "redis_exporter" {
				problems = append(problems, fmt.Errorf("docs/metrics.md or docs/runbooks.md tells of %s, which nobody shows", name))
			}
		}
		return errors.Join(problems...)
	})
	eventually(t, "one node is ready as the master, two as slaves, all for anything", func() error {
		for _, kind := range []local.Kind{local.KindKVNode, local.KindReplicator, local.KindConfmaster} {
			ready := make(map[string]int)
			answers := ""
			for _, p := range w.Processes() {
				if p.Kind != kind {
					continue
				}
				for _, role := range []string{"any", "master", "slave"} {
					code, body, err := fetch(browser, "https://"+w.HTTPAddr(p)+"/readyz?role="+role)
					if err != nil {
						return err
					}
					answers += fmt.Sprintf("%s as %s: %d %s", p.Name, role, code, body)
					if code == http.StatusOK {
						ready[role]++
					}
				}
			}
			if ready["any"] != 3 || ready["master"] != 1 || ready["slave"] != 2 {
				return fmt.Errorf("%s: %v\n%s", kind, ready, answers)
			}
		}
		return nil
	})
}
