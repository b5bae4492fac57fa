package ctl

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"lockstep/internal/local"
)

// schedule is what runs a drill again and again: files for systemd, or a line for cron.
type schedule struct {
	Drill   string         `json:"drill"`
	Form    string         `json:"form"`
	Command []string       `json:"command"`
	Files   []scheduleFile `json:"files"` // of systemd
	Line    string         `json:"line"`  // of cron
	Next    []string       `json:"next"`  // what is left for the operator to do
}

type scheduleFile struct {
	Name    string `json:"name"`
	Content string `json:"content"`
}

// cronWords are the times that systemd and cron both know by name.
var cronWords = []string{"hourly", "daily", "weekly", "monthly"}

func newDrillSchedule(s *screen) *cobra.Command {
	var at drillPlace
	var when, form, install string
	command := &cobra.Command{
		Use:   "schedule DRILL [GROUP]",
		Short: "Print, or install, what runs a drill again and again: a systemd timer, or a line for cron",
		Long: `The scheduler of the machine runs drills, not a process of ours: it goes on after a restart, keeps the output (journalctl -u
lockstep-drill-DRILL), and tells when one fails (exit code 3: it did not pass; 1: it was refused, because the group was not well).
` + "`smrctl drill history`" + ` shows all of them that began. The units are of the system: they run as root, those of a cluster from ` + "`smrctl up`" + ` as
its owner. --password-file is read each time: it must stay where it is, readable for that account only. Choose a time at which somebody is there
to look. For a test system ` + "`smrctl drill run --every 1h`" + ` may do.`,
		Example: "  smrctl drill schedule kill-master --at 'Mon 10:00' --install /etc/systemd/system --confmaster 10.0.0.1:7300 --password-file /etc/lockstep/drill-password\n  smrctl drill schedule switchover --form cron --at '0 10 * * 1'",
		Args:    cobra.RangeArgs(1, 2),
		RunE: work(func(_ context.Context, args []string) error {
			if err := checkDrill(args[0]); err != nil {
				return err
			}
			plan, err := at.schedule(args, when, form)
			if err != nil {
				return err
			}
			if install != "" {
				if form != "systemd" {
					return usage("--install is for --form systemd: give the line for cron to `crontab -e`")
				}
				for _, f := range plan.Files {
					if err := writeNew(filepath.Join(install, f.Name), f.Content); err != nil {
						return err
					}
				}
			}
			return s.show(plan, func() {
				for _, f := range plan.Files {
					if install != "" {
						s.printf("written: %s\n", filepath.Join(install, f.Name))
						continue
					}
					s.printf("# %s\n%s\n", f.Name, f.Content)
				}
				if plan.Line != "" {
					s.printf("%s\n", plan.Line)
				}
				for _, next := range plan.Next {
					s.note("next: " + next)
				}
			})
		}),
	}
	at.add(command)
	flags := command.Flags()
	flags.StringVar(&when, "at", "weekly", "`when`: hourly, daily, weekly, monthly, or as the scheduler writes it (systemd: 'Mon 10:00'; cron: '0 10 * * 1')")
	flags.StringVar(&form, "form", "systemd", "what to print: systemd or cron")
	flags.StringVar(&install, "install", "", "write the files of systemd into this `directory`; files that are there stay as they are")
	complete(command, "form", "systemd", "cron")
	return command
}

// schedule says what runs the drill.
func (p *drillPlace) schedule(args []string, when, form string) (*schedule, error) {
	if when == "" || strings.ContainsAny(when, "\n\r%") || len(when) > 100 {
		return nil, usage("--at %q: use one line without '%%', such as weekly or 'Mon 10:00'", when)
	}
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find out where smrctl stands: %w", err)
	}
	command := append([]string{self, "drill", "run"}, args...)
	around := unitHome()
	if len(p.confmasters) > 0 {
		command = append(command, "--confmaster", strings.Join(p.confmasters, ","))
	} else {
		if _, err := local.Open(p.dir); err != nil {
			return nil, err // a schedule of a cluster that is not there would fail each time, and nobody would look
		}
		dir, err := filepath.Abs(p.dir)
		if err != nil {
			return nil, fmt.Errorf("directory %s: %w", p.dir, err)
		}
		if around, err = unitOfLocal(dir); err != nil {
			return nil, err
		}
		command = append(command, "--dir", dir)
	}
	if p.passwordFile == "-" {
		return nil, usage("--password-file -: a scheduler has no standard input; name a file that only its account can read")
	}
	if p.user != "" {
		command = append(command, "--user", p.user)
	}
	for _, place := range []struct{ flag, path string }{
		{"--tls-ca", p.files.CA}, {"--tls-cert", p.files.Cert}, {"--tls-key", p.files.Key}, {"--password-file", p.passwordFile}, {"--history", p.history},
	} {
		if place.path == "" {
			continue
		}
		path, err := filepath.Abs(place.path)
		if err != nil {
			return nil, fmt.Errorf("%s %s: %w", place.flag, place.path, err)
		}
		command = append(command, place.flag, path)
	}
	command = append(command, "--yes")
	for _, word := range command {
		if strings.ContainsAny(word, "\n\r") {
			return nil, usage("%q has a line break, which no scheduler takes", word)
		}
	}
	plan := &schedule{Drill: args[0], Form: form, Command: command, Files: []scheduleFile{}, Next: []string{}}
	switch form {
	case "cron":
		if slices.Contains(cronWords, when) {
			when = "@" + when
		} else if n := len(strings.Fields(when)); n != 5 {
			return nil, usage("--at %q has %d fields: cron takes five (minute, hour, day, month, day of the week), or one of %s", when, n, strings.Join(cronWords, ", "))
		}
		plan.Line = when + " " + shellWords(command)
		plan.Next = append(plan.Next, "add the line with `crontab -e`")
	case "systemd":
		name := "lockstep-drill-" + args[0]
		plan.Files = append(plan.Files,
			scheduleFile{name + ".service", fmt.Sprintf("[Unit]\nDescription=Lockstep drill %s\nAfter=network-online.target\n\n[Service]\nType=oneshot\n%sExecStart=%s\n", args[0], around, unitWords(command))},
			scheduleFile{name + ".timer", fmt.Sprintf("[Unit]\nDescription=Lockstep drill %s, again and again\n\n[Timer]\nOnCalendar=%s\nPersistent=false\n\n[Install]\nWantedBy=timers.target\n", args[0], when)})
		plan.Next = append(plan.Next, fmt.Sprintf("check the time with `systemd-analyze calendar '%s'`", when),
			fmt.Sprintf("`systemctl daemon-reload && systemctl enable --now %s.timer`", name))
	default:
		return nil, usage("--form %q: use systemd or cron", form)
	}
	return plan, nil
}

// unitHome says where the history of drills is: the system's services have no home directory, and it would not be found.
func unitHome() string {
	if state := os.Getenv("XDG_STATE_HOME"); state != "" {
		return "Environment=" + unitWords([]string{"XDG_STATE_HOME=" + state}) + "\n"
	}
	return "Environment=HOME=%h\n"
}

// unitOfLocal is what the unit needs for a cluster from `smrctl up` in dir, an absolute path. A drill starts what it has killed: that must belong to
// whom the cluster belongs to, and must not end with the service, whose processes systemd kills otherwise. The history is in dir.
func unitOfLocal(dir string) (string, error) {
	info, err := os.Stat(dir)
	if err != nil {
		return "", fmt.Errorf("find out whose cluster it is: %w", err)
	}
	owner := strconv.FormatUint(uint64(info.Sys().(*syscall.Stat_t).Uid), 10)
	if known, err := user.LookupId(owner); err == nil {
		owner = known.Username
	}
	return "User=" + owner + "\nKillMode=process\n", nil
}

// writeNew writes a file that must not exist.
func writeNew(path, content string) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644) // #nosec G302 -- a unit, which systemd and people read
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s exists: remove it first if it shall be written anew", path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = file.WriteString(content)
	return errors.Join(err, file.Close())
}

// plainWord reports whether a word means itself to a shell and to systemd.
func plainWord(word string) bool {
	return word != "" && strings.Trim(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:,=") == ""
}

// shellWords writes a command for cron: quoted for sh, with cron's own sign for a line break escaped.
func shellWords(command []string) string {
	var words []string
	for _, word := range command {
		if !plainWord(word) {
			word = "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
		}
		words = append(words, strings.ReplaceAll(word, "%", `\%`))
	}
	return strings.Join(words, " ")
}

// unitWords writes a command for a unit of systemd.
func unitWords(command []string) string {
	escape := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "%", "%%", "$", "$$")
	var words []string
	for _, word := range command {
		if !plainWord(word) {
			word = `"` + escape.Replace(word) + `"`
		}
		words = append(words, word)
	}
	return strings.Join(words, " ")
}
