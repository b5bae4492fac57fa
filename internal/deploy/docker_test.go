//go:build docker

package deploy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// maxImage is what an image may have, in bytes.
const maxImage = 30_000_000

// engine is the compose file, brought up as a project of its own.
type engine struct {
	t       *testing.T
	dir     string
	project string
	env     []string
	compose []string // the command that takes compose files here
	options []string // of compose itself, before its command
	login   []string // flags of smrctl
	ports   []int    // of n1, n2, n3 on this machine
	pages   []int    // web pages of c1, c2, c3 on this machine
}

// buildPatience bounds the build of all programs from nothing.
const buildPatience = 15 * time.Minute

// docker runs a command of the engine's client.
func (e *engine) docker(arguments ...string) string {
	e.t.Helper()
	out, err := command(e.env, e.dir, "docker", arguments...)
	if err != nil {
		e.t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// do runs a command of compose on the project.
func (e *engine) do(env []string, arguments ...string) (string, error) {
	file := filepath.Join(e.dir, "docker", "compose.yaml")
	words := slices.Concat(e.compose, []string{"-p", e.project, "-f", file}, e.options, arguments)
	return command(append(e.env, env...), e.dir, words[0], words[1:]...)
}

// container returns the id of a service's container.
func (e *engine) container(service string) string {
	e.t.Helper()
	id := e.docker("ps", "-aq", "--filter", "label=com.docker.compose.project="+e.project, "--filter", "label=com.docker.compose.service="+service)
	if id == "" {
		e.t.Fatalf("there is no container of %s", service)
	}
	return id
}

// findEngine returns an engine that can run containers here, or says why there is none.
func findEngine(t *testing.T) *engine {
	t.Helper()
	e := &engine{t: t, dir: t.TempDir(), project: "lockstep-test-" + strconv.Itoa(os.Getpid()), env: []string{"DOCKER_BUILDKIT=0"}}
	_, err := command(nil, e.dir, "docker", "version")
	need(t, err == nil, fmt.Sprintf("the compose file was not brought up: no Docker engine runs here: %v", err))
	for _, compose := range [][]string{{"docker-compose"}, {"docker", "compose"}} {
		if _, err := command(nil, e.dir, compose[0], append(compose[1:], "version")...); err == nil {
			e.compose = compose
		}
	}
	need(t, e.compose != nil, "the compose file was not brought up: neither `docker compose` nor docker-compose is here")
	return e
}

// dockerfile is the Dockerfile with what was built on this machine in place of its first stage: there need be no registry.
func dockerfile(t *testing.T) string {
	t.Helper()
	text := readFile(t, "deploy/docker/Dockerfile")
	begin := strings.Index(text, "FROM scratch")
	if begin < 0 {
		t.Fatal("the Dockerfile has no image from scratch")
	}
	return regexp.MustCompile(`--from=build (--chown=\S+ )?/out/(\S+)( /out/\S+)?`).ReplaceAllStringFunc(text[begin:], func(s string) string {
		return strings.ReplaceAll(strings.TrimPrefix(s, "--from=build "), "/out/", "out/")
	})
}

// buildImages builds all images and checks their sizes.
func (e *engine) buildImages(tag string) {
	e.t.Helper()
	out := filepath.Join(e.dir, "out")
	for _, dir := range []string{out, filepath.Join(out, "data")} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			e.t.Fatal(err)
		}
	}
	build := []string{"build", "-trimpath", "-tags=grpcnotrace", "-ldflags=-s -w -X lockstep/internal/release.revision=0123456789abcdef", "-o", out + "/", "./cmd/confmaster", "./cmd/replicator", "./cmd/kvnode", "./cmd/smrctl", "./internal/deploy/probe"}
	if _, err := commandWithin(buildPatience, []string{"CGO_ENABLED=0"}, tree, "go", build...); err != nil {
		e.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(e.dir, "Dockerfile"), []byte(dockerfile(e.t)), 0o644); err != nil {
		e.t.Fatal(err)
	}
	for _, program := range []string{"confmaster", "replicator", "kvnode", "smrctl"} {
		image := "lockstep/" + program + ":" + tag
		e.docker("build", "-q", "--target", program, "-t", image, ".")
		e.t.Cleanup(func() { command(nil, e.dir, "docker", "rmi", "-f", image) })
		size, err := strconv.Atoi(e.docker("image", "inspect", "--format", "{{.Size}}", image))
		if err != nil || size > maxImage {
			e.t.Errorf("image %s has %d bytes, at most %d are promised (%v)", program, size, maxImage, err)
		}
		e.t.Logf("image %s: %.1f MB", program, float64(size)/1e6)
		if version := e.docker("run", "--rm", image, "--version"); !strings.HasSuffix(version, " 0123456789ab") {
			e.t.Errorf("image %s says that it is %q", program, version)
		}
	}
}

// prepare returns the compose file as a project of its own, with names, ports and the secret. It is taken down when the test ends.
func (e *engine) prepare(t *testing.T, name, tag string) *engine {
	t.Helper()
	p := &engine{t: t, dir: t.TempDir(), project: e.project + "-" + name, compose: e.compose}
	for _, file := range []string{"compose.yaml", "tls.env", "secrets/kvnode.conf"} {
		content := "requirepass = \"secret\"\n"
		if !strings.HasPrefix(file, "secrets/") {
			content = readFile(t, "deploy/docker/"+file)
		}
		target := filepath.Join(p.dir, "docker", file)
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(target, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	p.env = []string{"LOCKSTEP_TAG=" + tag, "COMPOSE_IGNORE_ORPHANS=true"}
	var held []net.Listener
	for i := range 6 {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, listener)
		port := listener.Addr().(*net.TCPAddr).Port
		if i < 3 {
			p.ports = append(p.ports, port)
			p.env = append(p.env, fmt.Sprintf("LOCKSTEP_PORT_%d=%d", i+1, port))
		} else {
			p.pages = append(p.pages, port)
			p.env = append(p.env, fmt.Sprintf("LOCKSTEP_WEB_%d=%d", i-2, port))
		}
	}
	for _, listener := range held {
		listener.Close()
	}
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := p.do(nil, "logs", "--no-color", "--tail=30")
			t.Log(out)
		}
		if _, err := p.do(nil, "--profile", "tools", "down", "--volumes", "--timeout", "5"); err != nil {
			t.Error(err)
		}
	})
	return p
}

// write sends one write to a node until it is taken.
func (e *engine) write(node int, key, value string) {
	e.t.Helper()
	client := redis.NewClient(&redis.Options{Addr: fmt.Sprintf("127.0.0.1:%d", e.ports[node-1]), Password: "secret", MaxRetries: -1})
	defer client.Close()
	eventually(e.t, fmt.Sprintf("n%d takes a write", node), func() error { return client.Set(context.Background(), key, value, 0).Err() })
}

// read returns what a node says of a key, once it answers.
func (e *engine) read(node int, key string) string {
	e.t.Helper()
	client := redis.NewClient(&redis.Options{Addr: fmt.Sprintf("127.0.0.1:%d", e.ports[node-1]), Password: "secret", MaxRetries: -1})
	defer client.Close()
	value := ""
	eventually(e.t, fmt.Sprintf("n%d answers a read", node), func() (err error) {
		value, err = client.Get(context.Background(), key).Result()
		if errors.Is(err, redis.Nil) {
			return nil
		}
		return err
	})
	return value
}

// master asks the configuration masters, through smrctl in a container.
func (e *engine) master() (name, state string, err error) {
	out, err := e.do(nil, append([]string{"run", "--rm", "-T", "smrctl", "status", "--confmaster=c1:7300,c2:7300,c3:7300", "-o", "json"}, e.login...)...)
	if err != nil {
		return "", "", err
	}
	var status struct {
		Groups []struct{ Master, State string }
	}
	if err := json.Unmarshal([]byte(out), &status); err != nil || len(status.Groups) != 1 {
		return "", "", fmt.Errorf("status %s: %w", out, err)
	}
	return status.Groups[0].Master, status.Groups[0].State, nil
}

// awaitGroup waits until the group is in the state given and returns its master.
func (e *engine) awaitGroup(state string) (master string) {
	e.t.Helper()
	eventually(e.t, "group g1 is "+state, func() error {
		name, is, err := e.master()
		if err == nil && (is != state || name == "") {
			err = fmt.Errorf("it is %s, its master is %q", is, name)
		}
		master = name
		return err
	})
	return master
}

// The images are built once for all of these.
func TestDockerCompose(t *testing.T) {
	e := findEngine(t)
	tag := e.project
	e.buildImages(tag)
	t.Run("survives", func(t *testing.T) { testComposeSurvives(t, e.prepare(t, "plain", tag)) })
	t.Run("speaks TLS", func(t *testing.T) { testComposeSpeaksTLS(t, e.prepare(t, "tls", tag), filepath.Join(e.dir, "out")) })
}

// What could go wrong: everything that only shows in containers: names that are not found, a volume that user 10001 may not write to,
// a socket between two containers, a health check without its program, a node that does not come back after it was cut off. The real
// compose file is brought up with images from scratch; the master is killed, then cut off; what was written must be there.
func testComposeSurvives(t *testing.T, e *engine) {
	e.env = append(e.env, "LOCKSTEP_DRILLS=true")
	if _, err := e.do([]string{"FOUNDING=true"}, "up", "-d", "--no-build"); err != nil {
		t.Fatal(err)
	}
	e.awaitGroup("ok")
	e.write(1, "founded", "1")

	// The founding ends: the configuration masters are made anew without it, on their volumes.
	if _, err := e.do(nil, "up", "-d", "--no-build"); err != nil {
		t.Fatal(err)
	}
	master := e.awaitGroup("ok")
	if command := e.docker("inspect", "--format", "{{.Config.Cmd}}", e.container("c1")); !strings.Contains(command, "--new=false") {
		t.Errorf("c1 is still being founded: %s", command)
	}
	for _, service := range []string{"c1", "c2", "c3", "n1", "n1-log", "n2", "n2-log", "n3", "n3-log"} {
		id := e.container(service)
		eventually(t, service+" is healthy", func() error {
			if health := e.docker("inspect", "--format", "{{.State.Health.Status}}", id); health != "healthy" {
				return errors.New("it is " + health)
			}
			return nil
		})
	}

	// kill -9 of the master's two containers; another leads, and has everything.
	number := func(node string) int { n, _ := strconv.Atoi(strings.TrimPrefix(node, "n")); return n }
	other := number(master)%3 + 1
	e.docker("kill", "-s", "KILL", e.container(master), e.container(master+"-log"))
	e.write(other, "after the kill", "2")
	if got := e.read(other, "founded"); got != "1" {
		t.Errorf("a write from before the kill is %q", got)
	}
	e.docker("start", e.container(master+"-log"), e.container(master))
	second := e.awaitGroup("ok")

	// The new master is cut off from everything; the others go on, and it takes back what it had to itself.
	network := e.project + "_lockstep"
	for _, service := range []string{second, second + "-log"} {
		e.docker("network", "disconnect", network, e.container(service))
	}
	other = number(second)%3 + 1
	e.write(other, "while cut off", "3")
	for _, service := range []string{second + "-log", second} {
		e.docker("network", "connect", "--alias", service, network, e.container(service))
	}
	e.awaitGroup("ok")
	for key, want := range map[string]string{"founded": "1", "after the kill": "2", "while cut off": "3"} {
		for node := range 3 {
			if got := e.read(node+1, key); got != want {
				t.Errorf("n%d says %q is %q, want %q", node+1, key, got, want)
			}
		}
	}

	testDrillsInContainers(t, e)

	// A lost volume of a configuration master is refused, not founded again.
	lost := e.container("c3")
	e.docker("rm", "-f", lost)
	e.docker("volume", "rm", e.project+"_c3")
	if _, err := e.do(nil, "up", "-d", "--no-build"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "c3 refuses an empty volume", func() error {
		out, err := e.do(nil, "logs", "--no-color", "c3")
		if err == nil && !strings.Contains(out, "add --new") {
			err = errors.New("it says " + out)
		}
		return err
	})
	e.write(1, "without c3", "4")
}

// What could go wrong: a drill passes though nothing was broken, because the first process of a container is out of reach of its own signals;
// or a drill begins that cannot be done in containers.
func testDrillsInContainers(t *testing.T, e *engine) {
	dir := filepath.Join(e.dir, "drills")
	if err := errors.Join(os.Mkdir(dir, 0o777), os.Chmod(dir, 0o777), os.WriteFile(filepath.Join(dir, "password"), []byte("secret\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
	drill := func(name string) (string, error) {
		return e.do(nil, "run", "--rm", "-T", "--volume", dir+":/drills", "smrctl", "drill", "run", name, "--hold=2s", "--yes",
			"--confmaster=c1:7300,c2:7300,c3:7300", "--history=/drills/history", "--password-file=/drills/password")
	}
	starts := func() (times []string) {
		for _, service := range []string{"c1", "c2", "c3", "n1-log", "n2-log", "n3-log"} {
			times = append(times, e.docker("inspect", "--format", "{{.State.StartedAt}}", e.container(service)))
		}
		return times
	}
	for name, killed := range map[string]int{"kill-confmaster-leader": 1, "lose-disk": 1, "lose-confmaster-majority": 0, "isolate-master": 0} {
		e.awaitGroup("ok")
		before := starts()
		if out, err := drill(name); err != nil || !strings.Contains(out, ": passed") {
			t.Errorf("drill %s: %v: %s", name, err, out)
		}
		after, again := starts(), 0
		for i := range before {
			if before[i] != after[i] {
				again++
			}
		}
		if again != killed {
			t.Errorf("drill %s: %d containers were started again, want %d", name, again, killed)
		}
	}
	for _, name := range []string{"kill-master", "pause-master", "rolling-restart"} {
		if out, err := drill(name); err == nil || !strings.Contains(err.Error()+out, "nothing was done") || !strings.Contains(err.Error()+out, "in a container of its own") {
			t.Errorf("drill %s: %v: %s", name, err, out)
		}
	}
}

// What could go wrong: a certificate that misses a name by which containers know each other, a key that user 10001 cannot read, a port that still
// listens without TLS, or commands in tls.env that do not do what they are for. They are run as they stand there.
func testComposeSpeaksTLS(t *testing.T, e *engine, programs string) {
	_, err := command(nil, e.dir, "redis-cli", "--version")
	need(t, err == nil, "TLS in containers was not tried: redis-cli is not here")
	need(t, os.Getuid() == 0, "TLS in containers was not tried: keys can be given to user 10001 by root only")
	var script strings.Builder
	for _, line := range strings.Split(readFile(t, "deploy/docker/tls.env"), "\n") {
		if command, is := strings.CutPrefix(line, "#   "); is {
			script.WriteString(strings.Replace(command, "sudo ", "", 1) + "\n")
		}
	}
	if !strings.Contains(script.String(), "cert ca compose") {
		t.Fatalf("tls.env does not say how certificates are made: %q", script.String())
	}
	dir := filepath.Join(e.dir, "docker")
	if out, err := command([]string{"PATH=" + programs + ":" + os.Getenv("PATH")}, dir, "sh", "-euc", script.String()); err != nil {
		t.Fatal(err, out)
	}
	e.options = []string{"--env-file", filepath.Join(dir, "tls.env")}
	e.login = []string{"--tls-ca=/run/tls/ca.crt", "--tls-cert=/run/tls/own.crt", "--tls-key=/run/tls/own.key"}
	if _, err := e.do([]string{"FOUNDING=true"}, "up", "-d", "--no-build"); err != nil {
		t.Fatal(err)
	}
	master := e.awaitGroup("ok")
	cli := func(node int, words ...string) (string, error) {
		arguments := append([]string{"-h", "127.0.0.1", "-p", strconv.Itoa(e.ports[node-1]), "--no-auth-warning", "-a", "secret", "-e"}, words...)
		out, err := command(nil, e.dir, "redis-cli", arguments...)
		return strings.TrimSpace(out), err
	}
	secure := []string{"--tls", "--cacert", filepath.Join(dir, "ca", "ca.crt")}
	write := func(node int, value string) {
		t.Helper()
		eventually(t, fmt.Sprintf("n%d takes a write through TLS", node), func() error {
			out, err := cli(node, append(secure, "SET", "sealed", value)...)
			if err == nil && out != "OK" {
				err = errors.New(out)
			}
			return err
		})
	}
	write(1, "1")
	if out, err := cli(1, "PING"); err == nil {
		t.Errorf("without TLS n1 answers %q", out)
	}
	if out, err := cli(1, "--tls", "PING"); err == nil {
		t.Errorf("redis-cli trusts a certificate of nobody: %q", out)
	}

	// The page is served with the same CA, and its configuration master passes for healthy.
	for i, port := range e.pages {
		eventually(t, fmt.Sprintf("c%d serves the web page with TLS, and is healthy", i+1), func() error {
			if out, err := command(nil, e.dir, "curl", "-sS", "--fail", "--cacert", filepath.Join(dir, "ca", "ca.crt"), fmt.Sprintf("https://localhost:%d/readyz", port)); err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			if health := e.docker("inspect", "--format", "{{.State.Health.Status}}", e.container(fmt.Sprintf("c%d", i+1))); health != "healthy" {
				return errors.New("it is " + health)
			}
			return nil
		})
	}
	if out, err := e.do(nil, append([]string{"run", "--rm", "-T", "smrctl", "web", "login", "--confmaster=c1:7300,c2:7300,c3:7300"}, e.login...)...); err != nil || !strings.Contains(out, ":9121/#login=") {
		t.Errorf("log in at the page: %v: %s", err, out)
	}
	if out, err := e.do(nil, "run", "--rm", "-T", "smrctl", "log", "verify", "/n1/n1"); err != nil || !strings.Contains(out, " check; durable to ") {
		t.Errorf("verify the log of n1: %v: %s", err, out)
	}

	// The inner connections hold across a fail-over, too.
	other := int(master[1]-'0')%3 + 1
	e.docker("kill", "-s", "KILL", e.container(master), e.container(master+"-log"))
	write(other, "2")
	e.docker("start", e.container(master+"-log"), e.container(master))
	e.awaitGroup("ok")
	for node := 1; node <= 3; node++ {
		eventually(t, fmt.Sprintf("n%d has what was written", node), func() error {
			out, err := cli(node, append(secure, "GET", "sealed")...)
			if err == nil && out != "2" {
				err = errors.New("it says " + out)
			}
			return err
		})
	}
}
