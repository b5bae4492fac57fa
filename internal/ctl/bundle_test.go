package ctl

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lockstep/proto"
)

// What could go wrong: a password, or its hash, leaves the cluster with a bundle.
func TestNoSecretSurvivesScrubbing(t *testing.T) {
	hash := strings.Repeat("0123456789abcdef", 4)
	for text, want := range map[string]string{
		"user ann on #" + hash + " ~* +get":          "user ann on #REMOVED ~* +get",
		`{"value":"on #` + hash + ` ~*"}`:            `{"value":"on #REMOVED ~*"}`,
		"ACL SETUSER ann on >geheim ~*":              "ACL SETUSER ann on >REMOVED ~*",
		`["acl","setuser","ann",">geheim"]`:          `["acl","setuser","ann",">REMOVED"]`,
		"--requirepass geheim --dir x":               "--requirepass REMOVED --dir x",
		"requirepass=geheim dir=x":                   "requirepass=REMOVED dir=x",
		`"requirepass": "geheim", "dir": "x"`:        `"requirepass": "REMOVED", "dir": "x"`,
		"password: geheim":                           "password: REMOVED",
		"masterauth geheim":                          "masterauth REMOVED",
		"TOKEN=geheim":                               "TOKEN=REMOVED",
		"commit 100 -> 200, 3 < 4 goroutine 7 [run]": "commit 100 -> 200, 3 < 4 goroutine 7 [run]",
	} {
		if got := scrub(text); got != want || strings.Contains(got, "geheim") {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

// What could go wrong: a part is missing without a word, the file can be read by others, or a user's hash is in it.
func TestBundleHoldsEverythingButSecrets(t *testing.T) {
	fake := startFake(t)
	hash := strings.Repeat("0123456789abcdef", 4)
	fake.settings.Settings[3].Value = "on #" + hash + " ~* +get"
	for _, n := range fake.nodes {
		n.settings.Settings = append(n.settings.Settings, &proto.NodeSetting{Kind: "config", Name: "masterauth", Value: "geheim"})
	}
	fake.settings.History = append(fake.settings.History, &proto.SettingsChange{Kind: "config", Name: "masterauth", Value: "geheim", Before: "geheim"})
	path := filepath.Join(t.TempDir(), "b.tar.gz")
	stdout, stderr, code := run(t, "debug", "bundle", "--confmaster", fake.addr, "--file", path)
	if code != 0 || !strings.Contains(stdout, "not had: KV node of n3") {
		t.Fatalf("exit code %d: %s%s", code, stdout, stderr)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	packed, err := gzip.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	parts := map[string]string{}
	for archive := tar.NewReader(packed); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		parts[header.Name] = string(text)
		if strings.Contains(string(text), hash) || strings.Contains(string(text), "geheim") {
			t.Errorf("%s holds the hash of a password", header.Name)
		}
	}
	for _, name := range []string{"version.json", "status.json", "group-g1/explain.json", "group-g1/settings.json", "group-g1/n1/state.json", "group-g1/n2/settings.json", "errors.txt"} {
		if len(parts["b/"+name]) < 10 {
			t.Errorf("%s is missing or empty", name)
		}
	}
	stdout, stderr, code = run(t, "debug", "bundle", "--confmaster", fake.addr, "--file", "-")
	if packed, err := gzip.NewReader(strings.NewReader(stdout)); err != nil || code != 0 || !strings.Contains(stderr, "not had: KV node of n3") {
		t.Errorf("to the standard output: exit code %d, %v, %s", code, err, stderr)
	} else if header, err := tar.NewReader(packed).Next(); err != nil || !strings.HasPrefix(header.Name, "lockstep-debug-") {
		t.Errorf("the standard output begins with %+v, %v", header, err)
	}
	if _, _, code := run(t, "debug", "bundle", "--confmaster", fake.addr, "--file", path); code != 1 {
		t.Errorf("over an existing file: exit code %d", code)
	}
}
