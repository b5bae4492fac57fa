package deploy

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var units = []string{"lockstep-confmaster@.service", "lockstep-replicator@.service", "lockstep-kvnode@.service"}

// What could go wrong: a setting of a unit is misspelt, which systemd only remarks on, or a protection is taken out. systemd judges
// itself; an exposure of 2.0 is what the project promises.
func TestUnitsAreHardened(t *testing.T) {
	t.Parallel()
	_, err := exec.LookPath("systemd-analyze")
	need(t, err == nil, "systemd-analyze is not here (Debian's package systemd): the units were not judged")
	dir := t.TempDir()
	for _, unit := range append(units, "lockstep.target") {
		text := strings.ReplaceAll(readFile(t, "deploy/systemd/"+unit), "/usr/local/bin/", programs+"/")
		if err := os.WriteFile(filepath.Join(dir, unit), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, unit := range units {
		out, err := command(nil, dir, "systemd-analyze", "security", "--offline=true", "--threshold=20", filepath.Join(dir, unit))
		if err != nil || !strings.Contains(out, "Overall exposure level") {
			t.Errorf("%s is exposed to more than 2.0: %v\n%s", unit, err, out)
		}
		instance := strings.Replace(unit, "@", "@1", 1)
		verify := exec.Command("systemd-analyze", "verify", "--man=no", instance)
		verify.Env = append(os.Environ(), "SYSTEMD_UNIT_PATH="+dir+":")
		if out, err := verify.CombinedOutput(); err != nil || strings.Contains(string(out), dir) || strings.Contains(string(out), "lockstep") {
			t.Errorf("systemd-analyze verify %s: %v\n%s", instance, err, out)
		}
	}
}

// unitCommand returns the command line of a unit, with the directories of a try in place of those of the system.
func unitCommand(t *testing.T, unit, instance, etc, state string) []string {
	t.Helper()
	match := regexp.MustCompile(`(?m)^ExecStart=(.+)$`).FindStringSubmatch(readFile(t, "deploy/systemd/"+unit))
	if match == nil {
		t.Fatalf("%s has no ExecStart", unit)
	}
	line := strings.NewReplacer("%i", instance, "/usr/local/bin/", programs+"/", "/etc/lockstep/", etc+"/", "/var/lib/lockstep/", state+"/").Replace(match[1])
	return strings.Fields(line)
}

// What could go wrong: units write where they may not, or name files that install.sh does not make.
func TestUnitsUseTheDirectoriesThatAreThere(t *testing.T) {
	t.Parallel()
	for _, unit := range units {
		text := readFile(t, "deploy/systemd/"+unit)
		for _, want := range []string{"Type=notify", "UMask=0077", "ProtectSystem=strict", "NoNewPrivileges=yes", "User=lockstep", "RestartPreventExitStatus=2"} {
			if !strings.Contains(text, "\n"+want+"\n") {
				t.Errorf("%s lacks %s", unit, want)
			}
		}
		if strings.Contains(text, "requirepass") {
			t.Errorf("%s puts a password on a command line", unit)
		}
		for _, argument := range unitCommand(t, unit, "1", "/etc/lockstep", "/var/lib/lockstep") {
			directory, found := strings.CutPrefix(argument, "/var/lib/")
			if found && !strings.Contains(text, "StateDirectory="+strings.ReplaceAll(directory, "-1", "-%i")+"\n") && !strings.Contains(unit, "kvnode") {
				t.Errorf("%s uses /var/lib/%s, which is no StateDirectory of it", unit, directory)
			}
		}
	}
	if !strings.Contains(readFile(t, "deploy/systemd/tmpfiles.d/lockstep.conf"), "d /var/lib/lockstep 0700 lockstep lockstep -") {
		t.Error("nobody makes /var/lib/lockstep")
	}
}
