package ctl

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"lockstep/internal/admin"
	"lockstep/internal/drift"
	"lockstep/internal/local"
	"lockstep/internal/release"
	"lockstep/proto"
)

const (
	// bundlePart bounds one file of a bundle, bundleLog the end of a log that goes into it, in bytes.
	bundlePart = 32 << 20
	bundleLog  = 1 << 20
	// bundlePatience bounds one question to a process.
	bundlePatience = 10 * time.Second
)

func newDebug(s *screen) *cobra.Command {
	return group("debug", "Gather what somebody needs to find out what is wrong", newBundle(s))
}

func newBundle(s *screen) *cobra.Command {
	var at where
	var path string
	var dry dryRun
	command := &cobra.Command{
		Use:   "bundle",
		Short: "Write one file with status, decisions, settings, INFO, metrics, goroutines and ends of logs; without secrets",
		Long: `Gathers, for every group: status, work log, settings with their history, drift; for every node: INFO, its state; of a cluster on this
machine also metrics, goroutines and the end of every log. Passwords and their hashes are taken out; keys and values of users are not asked
for. What could not be had stands in errors.txt.`,
		Args: cobra.NoArgs,
		RunE: work(func(ctx context.Context, _ []string) error {
			name := "lockstep-debug-" + time.Now().UTC().Format("20060102-150405")
			if path == "" {
				path = name + ".tar.gz"
			} else if path != "-" {
				name = strings.TrimSuffix(filepath.Base(path), ".tar.gz")
			}
			client, cluster, err := at.dial()
			if err != nil {
				return err
			}
			defer client.Close()
			if dry.on {
				return dry.show(s, []string{"ask every process of the cluster", "write " + path})
			}
			b := &bundle{cluster: cluster, login: client.Login}
			b.ask(ctx, client)
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := b.write(s.out, path, name); err != nil {
				return fmt.Errorf("write the bundle: %w", err)
			}
			if path == "-" {
				s.note(fmt.Sprintf("%d files", len(b.parts)))
				for _, problem := range b.problems {
					s.note("not had: " + problem)
				}
				return nil
			}
			result := struct {
				File   string   `json:"file"`
				Parts  []string `json:"parts"`
				Errors []string `json:"errors"`
			}{path, []string{}, append([]string{}, b.problems...)}
			for _, p := range b.parts {
				result.Parts = append(result.Parts, p.name)
			}
			return s.show(result, func() {
				s.printf("%s: %d files\n", path, len(b.parts))
				for _, problem := range b.problems {
					s.printf("  not had: %s\n", problem)
				}
			})
		}),
	}
	at.addAll(command)
	at.addLogin(command)
	dry.add(command)
	command.Flags().StringVar(&path, "file", "", "`file` to write, which must not exist; - is the standard output (default: lockstep-debug-TIME.tar.gz here)")
	return command
}

// bundle is what has been gathered.
type bundle struct {
	login    admin.Login
	cluster  *local.Cluster
	parts    []bundleFile
	problems []string
}

type bundleFile struct {
	name string
	text []byte
}

func (b *bundle) add(name string, text []byte) {
	b.parts = append(b.parts, bundleFile{name, []byte(scrub(string(text[:min(len(text), bundlePart)])))})
}

func (b *bundle) addJSON(name string, value any) {
	text, err := json.MarshalIndent(value, "", "  ")
	if b.failed(name, err) {
		return
	}
	b.add(name, text)
}

// failed notes why something could not be had.
func (b *bundle) failed(what string, err error) bool {
	if err != nil {
		b.problems = append(b.problems, scrub(fmt.Sprintf("%s: %v", what, err)))
	}
	return err != nil
}

// asker is what a bundle asks the configuration masters.
type asker interface {
	Status(context.Context) (*proto.ClusterStatus, error)
	WorkLog(ctx context.Context, group string, limit int) ([]*proto.WorkEntry, error)
	Settings(ctx context.Context, group string, history bool) (*proto.GroupSettings, error)
}

func (b *bundle) ask(ctx context.Context, client asker) {
	b.addJSON("version.json", map[string]string{"smrctl": release.String(), "time": time.Now().UTC().Format(timeForm), "machine": machineName()})
	status, err := client.Status(ctx)
	if !b.failed("status", err) {
		b.addJSON("status.json", statusOf(status))
		for _, g := range status.GetGroups() {
			b.askGroup(ctx, client, g)
		}
	}
	if b.cluster != nil {
		b.askMachine(ctx)
	}
}

func (b *bundle) askGroup(ctx context.Context, client asker, g *proto.GroupStatus) {
	dir := "group-" + g.GetName() + "/"
	if entries, err := client.WorkLog(ctx, g.GetName(), workLogLimit); !b.failed("work log of "+g.GetName(), err) {
		list := []decision{}
		for _, entry := range entries {
			list = append(list, decisionOf(entry))
		}
		b.addJSON(dir+"explain.json", list)
	}
	if settings, err := client.Settings(ctx, g.GetName(), true); !b.failed("settings of "+g.GetName(), err) {
		for _, item := range settings.GetSettings() {
			hideSecret(item.GetName(), &item.Value)
		}
		for _, change := range settings.GetHistory() {
			hideSecret(change.GetName(), &change.Value, &change.Before)
		}
		b.addJSON(dir+"settings.json", settings)
	}
	for _, m := range membersOf(g, b.login) {
		err := askNode(ctx, g.GetName(), m, bundlePatience, func(ctx context.Context, node proto.KVNodeClient, target *proto.Target) error {
			state, err := node.State(ctx, &proto.KVStateRequest{Target: target})
			if err != nil {
				return err
			}
			b.addJSON(dir+m.node+"/state.json", state)
			have, err := node.Settings(ctx, &proto.SettingsRequest{Target: target})
			if err == nil {
				for _, item := range have.GetSettings() {
					hideSecret(item.GetName(), &item.Value)
				}
				b.addJSON(dir+m.node+"/settings.json", have)
			}
			return err
		})
		if b.failed("KV node of "+m.node, err) {
			continue
		}
		if info, err := redisAsk(ctx, b.login, m.kvAddr, "INFO ALL"); !b.failed("INFO of "+m.node, err) {
			b.add(dir+m.node+"/info.txt", []byte(strings.Join(info, "\n")))
		}
	}
}

// hideSecret takes values of a setting out if they are secret: there their name does not stand right before them, as scrub would need.
func hideSecret(name string, values ...*string) {
	for _, value := range values {
		if drift.Secret(name) && *value != "" {
			*value = "REMOVED"
		}
	}
}

// askMachine asks the processes on this machine, and reads their logs.
func (b *bundle) askMachine(ctx context.Context) {
	for _, p := range b.cluster.Processes() {
		dir := "process-" + p.Name + "/"
		if text, err := logEnd(filepath.Join(b.cluster.Dir, "logs", p.Name+".log")); !b.failed("log of "+p.Name, err) {
			b.add(dir+"log.txt", text)
		}
		addr := b.cluster.HTTPAddr(p)
		if p.Pid == 0 || addr == "" {
			continue
		}
		for name, path := range map[string]string{"metrics.txt": "/metrics", "ready.txt": "/readyz", "goroutines.txt": "/debug/pprof/goroutine?debug=2"} {
			text, err := fetch(ctx, b.login, addr+path)
			if !b.failed(path+" of "+p.Name, err) {
				b.add(dir+name, text)
			}
		}
	}
}

// fetch reads a page. That a process is not ready is an answer, too.
func fetch(ctx context.Context, login admin.Login, page string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, bundlePatience)
	defer cancel()
	browser, scheme := http.DefaultClient, "http://"
	if config := login.Keeper.ForHosts(); config != nil {
		transport := &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}
		browser, scheme = &http.Client{Transport: transport}, "https://"
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+page, nil)
	if err != nil {
		return nil, err
	}
	response, err := browser.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode == http.StatusNotFound {
		return nil, errors.New("there is no such page: it is switched off (--pprof)")
	}
	return io.ReadAll(io.LimitReader(response.Body, bundlePart))
}

// logEnd reads the end of a log.
func logEnd(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	text := make([]byte, min(info.Size(), bundleLog))
	n, err := file.ReadAt(text, info.Size()-int64(len(text)))
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return text[:n], err
}

func (b *bundle) write(stdout io.Writer, path, name string) error {
	if path == "-" {
		return b.pack(stdout, name)
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(b.pack(file, name), file.Sync(), file.Close())
}

// pack writes the archive, in which everything stands in a directory of that name.
func (b *bundle) pack(to io.Writer, name string) error {
	packed := gzip.NewWriter(to)
	archive := tar.NewWriter(packed)
	for _, p := range append(b.parts, bundleFile{"errors.txt", []byte(strings.Join(append(b.problems, ""), "\n"))}) {
		if err := archive.WriteHeader(&tar.Header{Name: name + "/" + p.name, Mode: 0o600, Size: int64(len(p.text)), ModTime: time.Now()}); err != nil {
			return err
		}
		if _, err := archive.Write(p.text); err != nil {
			return err
		}
	}
	return errors.Join(archive.Close(), packed.Close())
}

// secrets are what must not leave the cluster: hashes of passwords, rules that set one, and the values of settings and flags that
// are named as secrets are.
var secrets = []struct {
	pattern *regexp.Regexp
	stands  string
}{
	{regexp.MustCompile(`#[0-9a-f]{64}`), "#REMOVED"},
	{regexp.MustCompile(`(^|[\s"'])([<>]|\\u003[ce])[^\s"'<>=]+`), "${1}${2}REMOVED"},
	{regexp.MustCompile(`(?i)((?:require|master)?(?:pass(?:word|wd|phrase)?|auth|secret|token|api-?key|private-?key))("?\s*[:=]\s*"?|\s+)([^\s",}]+)`), "${1}${2}REMOVED"},
}

// scrub takes secrets out of a text.
func scrub(text string) string {
	for _, s := range secrets {
		text = s.pattern.ReplaceAllString(text, s.stands)
	}
	return text
}
