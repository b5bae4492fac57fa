package deploy

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// composeFile is the part of a compose file that we use.
type composeFile struct {
	Process  map[string]any            `yaml:"x-process"`
	Health   map[string]any            `yaml:"x-health"`
	Services map[string]composeService `yaml:"services"`
	Networks map[string]any            `yaml:"networks"`
	Volumes  map[string]any            `yaml:"volumes"`
	Secrets  map[string]map[string]any `yaml:"secrets"`
}

type composeService struct {
	Image string `yaml:"image"`
	Build struct {
		Context    string            `yaml:"context"`
		Dockerfile string            `yaml:"dockerfile"`
		Target     string            `yaml:"target"`
		Args       map[string]string `yaml:"args"`
	} `yaml:"build"`
	Command     []string `yaml:"command"`
	Entrypoint  []string `yaml:"entrypoint"`
	Volumes     []string `yaml:"volumes"`
	Ports       []string `yaml:"ports"`
	Secrets     []string `yaml:"secrets"`
	Networks    []string `yaml:"networks"`
	Profiles    []string `yaml:"profiles"`
	CapDrop     []string `yaml:"cap_drop"`
	SecurityOpt []string `yaml:"security_opt"`
	ReadOnly    bool     `yaml:"read_only"`
	Init        bool     `yaml:"init"`
	Restart     string   `yaml:"restart"`
	Grace       string   `yaml:"stop_grace_period"`
	Healthcheck struct {
		Test        []string `yaml:"test"`
		Interval    string   `yaml:"interval"`
		Timeout     string   `yaml:"timeout"`
		Retries     int      `yaml:"retries"`
		StartPeriod string   `yaml:"start_period"`
	} `yaml:"healthcheck"`
}

// program is the image without the project's name and tag.
func (s composeService) program() string {
	return strings.TrimPrefix(strings.SplitN(s.Image, ":", 2)[0], "lockstep/")
}

// listens returns the ports that the command line opens: those of the service's own addresses.
func (s composeService) listens(name string) []string {
	var ports []string
	for _, argument := range s.Command {
		flag, value, _ := strings.Cut(filled(argument, nil), "=") // the ports are the same with TLS
		switch flag {
		case "--data", "--manage", "--listen", "--http", "--sentinel", "--admin":
			if value == "" || strings.HasPrefix(value, "/") { // a directory
				continue
			}
			ports = append(ports, value[strings.LastIndex(value, ":")+1:])
		case "--peers":
			for _, peer := range strings.Split(value, ",") {
				if _, address, _ := strings.Cut(peer, "="); s.program() == "confmaster" && strings.HasPrefix(address, name+":") {
					ports = append(ports, address[len(name)+1:])
				}
			}
		}
	}
	return ports
}

func readCompose(t *testing.T) composeFile {
	t.Helper()
	decoder := yaml.NewDecoder(strings.NewReader(readFile(t, "deploy/docker/compose.yaml")))
	decoder.KnownFields(true)
	var file composeFile
	if err := decoder.Decode(&file); err != nil {
		t.Fatal(err)
	}
	return file
}

// interpolation is what every version of compose knows.
var interpolation = regexp.MustCompile(`\$\{([A-Z_0-9]+)(:-|-)([^}]*)\}`)

// filled replaces ${NAME:-standard} and ${NAME-standard} as compose does.
func filled(text string, env map[string]string) string {
	return interpolation.ReplaceAllStringFunc(text, func(part string) string {
		m := interpolation.FindStringSubmatch(part)
		value, set := env[m[1]]
		if m[2] == ":-" && value == "" || !set {
			return m[3]
		}
		return value
	})
}

// environment reads a file for --env-file.
func environment(t *testing.T, path string) map[string]string {
	t.Helper()
	env := make(map[string]string)
	for line := range strings.SplitSeq(readFile(t, path), "\n") {
		if name, value, ok := strings.Cut(line, "="); ok && !strings.HasPrefix(line, "#") {
			env[name] = value
		}
	}
	return env
}

// What could go wrong: a flag that does not exist, a port that nobody opens, a volume or secret that is not declared, a container
// with more rights than it needs. An engine would find out late; this runs everywhere.
func TestComposeFileFitsThePrograms(t *testing.T) {
	t.Parallel()
	file := readCompose(t)
	for name, env := range map[string]map[string]string{"plain": {}, "TLS": environment(t, "deploy/docker/tls.env")} {
		t.Run(name, func(t *testing.T) { file.check(t, env) })
	}
}

// check holds the file against the programs as it is with some settings.
func (file composeFile) check(t *testing.T, env map[string]string) {
	programsSeen := make(map[string]int)
	for name, s := range file.Services {
		for i := range s.Volumes {
			s.Volumes[i] = filled(s.Volumes[i], nil) // where certificates are is the user's
		}
		programsSeen[s.program()]++
		if name != "smrctl" && (s.Build.Target != s.program() || s.Build.Dockerfile != "deploy/docker/Dockerfile" || s.Build.Context != "../..") {
			t.Errorf("%s is built as %+v", name, s.Build)
		}
		arguments := make([]string, len(s.Command))
		for i, argument := range s.Command {
			if arguments[i] = filled(argument, env); strings.Contains(arguments[i], "${") {
				t.Errorf("%s: not every version of compose reads %s", name, argument)
			}
		}
		tryArguments(t, s.program(), arguments)
		secured := env["LOCKSTEP_TLS_CERT"] != ""
		if has := slices.ContainsFunc(arguments, func(a string) bool { return strings.HasPrefix(a, "--tls-cert=/run/tls/") }); has != secured {
			t.Errorf("%s has a certificate: %v", name, has)
		}
		for _, argument := range arguments {
			flag, value, _ := strings.Cut(argument, "=")
			if plain := flag == "--insecure" && value == "true" || (flag == "--listen" || flag == "--sentinel") && value != ""; plain && secured {
				t.Errorf("%s speaks without TLS: %s", name, argument)
			}
		}
		if !slices.Contains(s.CapDrop, "ALL") || !slices.Contains(s.SecurityOpt, "no-new-privileges:true") || !s.ReadOnly {
			t.Errorf("%s has more rights than it needs", name)
		}
		if !slices.Equal(s.Networks, []string{"lockstep"}) {
			t.Errorf("%s is in the networks %v", name, s.Networks)
		}
		for _, volume := range s.Volumes {
			if _, ok := file.Volumes[strings.SplitN(volume, ":", 2)[0]]; !ok {
				t.Errorf("%s mounts %s, which is not declared", name, volume)
			}
		}
		for _, secret := range s.Secrets {
			if _, ok := file.Secrets[secret]; !ok || !slices.Contains(s.Command, "--config=/run/secrets/"+secret) {
				t.Errorf("%s and its secret %s do not fit", name, secret)
			}
		}
		if s.program() != "smrctl" {
			asks := filled(s.Healthcheck.Test[len(s.Healthcheck.Test)-1], env)
			want := "http://127.0.0.1:%s/readyz"
			if slices.Contains(arguments, "--http-tls=on") { // the probe speaks no TLS
				want = "tcp://127.0.0.1:%s"
			}
			if len(s.Healthcheck.Test) != 3 || s.Healthcheck.Test[1] != "/probe" ||
				!slices.ContainsFunc(s.listens(name), func(port string) bool { return asks == fmt.Sprintf(want, port) }) {
				t.Errorf("%s: health check %v asks %s", name, s.Healthcheck.Test, asks)
			}
		}
		for _, port := range s.Ports {
			port = filled(port, env)
			if !strings.HasPrefix(port, "127.0.0.1:") || !slices.Contains(s.listens(name), port[strings.LastIndex(port, ":")+1:]) {
				t.Errorf("%s publishes %s", name, port)
			}
		}
		for _, problem := range file.strangers(name, arguments) {
			t.Error(problem)
		}
	}
	if fmt.Sprint(programsSeen) != "map[confmaster:3 kvnode:3 replicator:3 smrctl:2]" {
		t.Errorf("there are %v", programsSeen)
	}
}

// strangers reports addresses on which no service listens.
func (f composeFile) strangers(name string, arguments []string) []string {
	var problems []string
	for _, argument := range arguments {
		for _, part := range strings.FieldsFunc(argument, func(r rune) bool { return r == '=' || r == ',' }) {
			host, port, ok := strings.Cut(part, ":")
			if _, err := strconv.Atoi(port); !ok || err != nil || host == "0.0.0.0" {
				continue
			}
			target, known := f.Services[host]
			if !known || !slices.Contains(target.listens(host), port) {
				problems = append(problems, fmt.Sprintf("%s: nobody listens on %s", name, part))
			}
		}
	}
	return problems
}

// What could go wrong: an image opens a port or needs a program that the Dockerfile does not have.
func TestDockerfileHasWhatTheServicesNeed(t *testing.T) {
	t.Parallel()
	stages := make(map[string]string)
	for _, stage := range strings.Split(readFile(t, "deploy/docker/Dockerfile"), "\nFROM ")[1:] {
		line, rest, _ := strings.Cut(stage, "\n")
		base, name, _ := strings.Cut(line, " AS ")
		if name != "build" && base != "scratch" {
			t.Errorf("image %s stands on %s", name, base)
		}
		if name != "build" && !strings.Contains(rest, "\nUSER 10001:10001\n") {
			t.Errorf("image %s runs as root", name)
		}
		stages[name] = rest
	}
	for name, s := range readCompose(t).Services {
		stage, ok := stages[s.program()]
		if !ok || !strings.Contains(stage, fmt.Sprintf("ENTRYPOINT [\"/%s\"]", s.program())) {
			t.Errorf("no image for %s", name)
		}
		for _, port := range s.listens(name) {
			if !regexp.MustCompile(`(?m)^EXPOSE .*\b` + port + `\b`).MatchString(stage) {
				t.Errorf("%s opens port %s, of which its image says nothing", name, port)
			}
		}
	}
	if goMod := readFile(t, "go.mod"); !strings.Contains(goMod, "\ngo 1.26") || !strings.Contains(readFile(t, "deploy/docker/Dockerfile"), "golang:1.26.") {
		t.Error("the Dockerfile builds with another Go than go.mod asks for")
	}
}

// chartPod is the part of a rendered manifest that has containers.
type chartPod struct {
	Kind string
	Spec struct {
		Template struct {
			Spec struct {
				Containers []struct {
					Name  string
					Image string
					Args  []string
				}
			}
		}
	}
}

// What could go wrong: the chart gives a container an argument that its program does not know. The manifests are those that the
// module deploy/helm/test has rendered and holds against the chart.
func TestChartFitsThePrograms(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob(filepath.Join(tree, "deploy/helm/test/testdata/*.yaml"))
	if err != nil || len(files) < 4 {
		t.Fatalf("found %v, %v", files, err)
	}
	tried := 0
	for _, path := range files {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, document := range strings.Split(string(content), "\n---\n") {
			var pod chartPod
			if err := yaml.Unmarshal([]byte(document), &pod); err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			for _, container := range pod.Spec.Template.Spec.Containers {
				program := container.Image[strings.LastIndex(container.Image, "/")+1 : strings.LastIndex(container.Image, ":")]
				tryArguments(t, program, container.Args)
				tried++
			}
		}
	}
	if tried != 4*len(files) {
		t.Errorf("tried %d containers of %d files", tried, len(files))
	}
}
