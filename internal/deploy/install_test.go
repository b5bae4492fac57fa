package deploy

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// install runs the script with the programs of this run.
func install(t *testing.T, arguments ...string) (string, error) {
	t.Helper()
	script, err := filepath.Abs(filepath.Join(tree, "deploy/install.sh"))
	if err != nil {
		t.Fatal(err)
	}
	return command(nil, t.TempDir(), "sh", append([]string{script, "--from", programs}, arguments...)...)
}

// listing names everything below dir.
func listing(t *testing.T, dir string) string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			names = append(names, strings.TrimPrefix(path, dir))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(names, "\n")
}

// What could go wrong: an upgrade overwrites the settings of an operator, a second run fails or changes something, a dry run does
// something, or a file is missing or readable by all.
func TestInstallScript(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	out, err := install(t, "--root", root, "--dry-run")
	if err != nil || listing(t, root) != "" || !strings.Contains(out, "would: install "+root+"/usr/local/bin/kvnode") {
		t.Fatalf("a dry run: %v\n%s\nleft:\n%s", err, out, listing(t, root))
	}
	if out, err = install(t, "--root", root, "--prefix", "/opt/ls"); err != nil {
		t.Fatal(err)
	}
	want := `/etc/lockstep/confmaster.conf.sample
/etc/lockstep/kvnode.conf.sample
/etc/lockstep/replicator.conf.sample
/etc/systemd/system/lockstep-confmaster@.service
/etc/systemd/system/lockstep-kvnode@.service
/etc/systemd/system/lockstep-replicator@.service
/etc/systemd/system/lockstep.target
/opt/ls/bin/confmaster
/opt/ls/bin/kvnode
/opt/ls/bin/replicator
/opt/ls/bin/smrctl
/usr/lib/sysusers.d/lockstep.conf
/usr/lib/tmpfiles.d/lockstep.conf`
	if got := listing(t, root); got != want {
		t.Errorf("installed\n%s\nwant\n%s", got, want)
	}
	unit, err := os.ReadFile(filepath.Join(root, "etc/systemd/system/lockstep-kvnode@.service"))
	if err != nil || !strings.Contains(string(unit), "ExecStart=/opt/ls/bin/kvnode ") {
		t.Errorf("the unit does not start the program that was installed: %v\n%s", err, unit)
	}
	for path, mode := range map[string]os.FileMode{"etc/lockstep": 0o750, "etc/lockstep/kvnode.conf.sample": 0o640, "opt/ls/bin/kvnode": 0o755} {
		if info, err := os.Stat(filepath.Join(root, path)); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}

	// The operator writes settings, and upgrades.
	settings := filepath.Join(root, "etc/lockstep/kvnode-n1.conf")
	if err := os.WriteFile(settings, []byte("cluster = mine\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "opt/ls/bin/kvnode"), []byte("an older program"), 0o755); err != nil {
		t.Fatal(err)
	}
	out, err = install(t, "--root", root, "--prefix", "/opt/ls")
	if err != nil || strings.Count(out, "installed ") != 1 || !strings.Contains(out, "installed "+root+"/opt/ls/bin/kvnode\n") {
		t.Errorf("an upgrade of one program: %v\n%s", err, out)
	}
	if !strings.Contains(out, "everybody on this machine can read "+settings) {
		t.Errorf("nothing is said of settings that all can read:\n%s", out)
	}
	if kept, err := os.ReadFile(settings); err != nil || string(kept) != "cluster = mine\n" {
		t.Errorf("settings are %q now, %v", kept, err)
	}
	if got := listing(t, root); got != strings.Replace(want, "/etc/lockstep/kvnode.conf.sample", "/etc/lockstep/kvnode-n1.conf\n/etc/lockstep/kvnode.conf.sample", 1) {
		t.Errorf("after an upgrade there is\n%s", got)
	}
}

func TestInstallScriptRefuses(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	for want, arguments := range map[string][]string{
		"unknown argument":      {"--rot", root},
		"needs a directory":     {"--root"},
		"use an absolute path":  {"--root", root, "--prefix", "here"},
		"no program confmaster": {"--root", root, "--from", root},
	} {
		if _, err := install(t, arguments...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v", arguments, err)
		}
	}
	if left := listing(t, root); left != "" {
		t.Errorf("a refused installation left\n%s", left)
	}
}
