package ctl

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"lockstep/internal/admin"
	"lockstep/internal/local"
	"lockstep/internal/trust"
	"lockstep/proto"
)

// Severities of what doctor finds, worst first.
const (
	severityError   = "error"
	severityWarning = "warning"
	severityNote    = "note"
	severityOK      = "ok"
)

var severities = []string{severityError, severityWarning, severityNote, severityOK}

// diagnosis is one thing that was looked at.
type diagnosis struct {
	Severity string `json:"severity"`
	Check    string `json:"check"`
	Subject  string `json:"subject"` // group, node or machine
	Found    string `json:"found"`
	Meaning  string `json:"meaning"` // "" if it is as it should be
	Do       string `json:"do"`
}

// doctor gathers what is found. Checks that look at files and limits look at this machine.
type doctor struct {
	client  *admin.Client
	cluster *local.Cluster // nil if it is not of this machine
	status  *proto.ClusterStatus
	members map[string][]kvMember

	mu    sync.Mutex
	found []diagnosis
}

func (d *doctor) say(x diagnosis) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.found = append(d.found, x)
}

func (d *doctor) fine(check, subject, format string, args ...any) {
	d.say(diagnosis{Severity: severityOK, Check: check, Subject: subject, Found: fmt.Sprintf(format, args...)})
}

// doctorChecks are all checks, in the order in which they are shown. A further one is a row here.
var doctorChecks = []struct {
	name string
	what string
	run  func(*doctor, context.Context)
}{
	{"confmasters", "a majority of the configuration masters is up, with a margin", (*doctor).checkConfmasters},
	{"copies", "how many replicas a group can lose", (*doctor).checkCopies},
	{"images", "every KV node can restart from an image, and how much log it would execute", (*doctor).checkImages},
	{"archive", "what is committed is archived soon, where there is an archive", (*doctor).checkArchive},
	{"versions", "configuration masters, replicators and KV nodes run one version", (*doctor).checkVersions},
	{"level", "the feature level is the highest that all processes support", (*doctor).checkLevel},
	{"clocks", "the clocks of the nodes agree, and none has jumped", (*doctor).checkClocks},
	{"settings", "every node has the settings that are wanted", (*doctor).checkSettings},
	{"exposure", "nobody without a password is let in from elsewhere", (*doctor).checkExposure},
	{"certificates", "the own certificate, and those that the processes show, are good for a while", (*doctor).checkCertificates},
	{"disks", "room, file system and the time of a sync (this machine)", (*doctor).checkDisks},
	{"limits", "open files, huge pages, overcommit, swap (this machine)", (*doctor).checkLimits},
}

func newDoctor(s *screen) *cobra.Command {
	var at where
	var all bool
	var only []string
	var names []string
	long := "Looks at a cluster and at this machine, and says what is wrong, what it means and what to do.\n\n"
	for _, c := range doctorChecks {
		names = append(names, c.name)
		long += fmt.Sprintf("  %-12s %s\n", c.name, c.what)
	}
	command := &cobra.Command{
		Use:   "doctor",
		Short: "Look for what is wrong or will be: disks, clocks, limits, versions, exposure, margins",
		Long:  long + "\nExit code 3 if there is an error or a warning. What concerns a machine is looked at on the machine on which smrctl runs: run it on each.",
		Args:  cobra.NoArgs,
		RunE: work(func(ctx context.Context, _ []string) error {
			for _, name := range only {
				if !slices.Contains(names, name) {
					return usage("--only %q%s: use %s", name, didYouMean(name, names), strings.Join(names, ", "))
				}
			}
			client, cluster, err := at.dial()
			if err != nil {
				return err
			}
			defer client.Close()
			d := &doctor{client: client, cluster: cluster, members: map[string][]kvMember{}}
			if d.status, err = client.Status(ctx); err != nil {
				return explainSilence(err, cluster)
			}
			for _, g := range d.status.GetGroups() {
				d.members[g.GetName()] = membersOf(g, client.Login)
			}
			for _, c := range doctorChecks {
				if len(only) == 0 || slices.Contains(only, c.name) {
					c.run(d, ctx)
				}
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			return d.show(s, all)
		}),
	}
	at.addAll(command)
	at.addLogin(command)
	command.Flags().BoolVar(&all, "all", false, "also what is as it should be")
	command.Flags().StringSliceVar(&only, "only", nil, "only these checks")
	complete(command, "only", names...)
	return command
}

func (d *doctor) show(s *screen, all bool) error {
	counts := make(map[string]int)
	list := []diagnosis{}
	for _, x := range d.found {
		if counts[x.Severity]++; all || x.Severity != severityOK {
			list = append(list, x)
		}
	}
	slices.SortStableFunc(list, func(a, b diagnosis) int {
		return cmp.Compare(slices.Index(severities, a.Severity), slices.Index(severities, b.Severity))
	})
	colours := map[string]string{severityError: red, severityWarning: yellow, severityOK: green}
	err := s.show(map[string]any{"findings": list, "errors": counts[severityError], "warnings": counts[severityWarning], "notes": counts[severityNote], "ok": counts[severityOK]}, func() {
		for _, x := range list {
			s.printf("%s  %s %s: %s\n", s.paint(colours[x.Severity], fmt.Sprintf("%-7s", x.Severity)), x.Check, x.Subject, x.Found)
			if x.Meaning != "" {
				s.printf("         means: %s\n", x.Meaning)
			}
			if x.Do != "" {
				s.printf("         do:    %s\n", x.Do)
			}
		}
		s.printf("%d errors, %d warnings, %d notes, %d as it should be\n", counts[severityError], counts[severityWarning], counts[severityNote], counts[severityOK])
	})
	if bad := counts[severityError] + counts[severityWarning]; err == nil && bad > 0 {
		err = found("%d findings that somebody should look at", bad)
	}
	return err
}

func (d *doctor) checkConfmasters(context.Context) {
	up, all := 0, len(d.status.GetConfmasters())
	var down []string
	for _, c := range d.status.GetConfmasters() {
		if c.GetUp() {
			up++
			continue
		}
		down = append(down, fmt.Sprintf("c%d at %s", c.GetId(), c.GetAddr()))
	}
	text := fmt.Sprintf("%d of %d are up", up, all)
	switch {
	case !d.status.GetHasLeader():
		d.say(diagnosis{severityError, "confmasters", "cluster", text + ", and none leads", "no fail-over and no change is possible", "start those that are down: " + strings.Join(down, ", ")})
	case len(down) > 0:
		d.say(diagnosis{severityWarning, "confmasters", "cluster", text, fmt.Sprintf("%d more may be lost before fail-overs stop", up-all/2-1), "start " + strings.Join(down, ", ")})
	case all < 3:
		d.say(diagnosis{severityWarning, "confmasters", "cluster", text, "without it there are no fail-overs", "run three, on machines of their own"})
	default:
		d.fine("confmasters", "cluster", "%s", text)
	}
}

func (d *doctor) checkCopies(context.Context) {
	for _, g := range d.status.GetGroups() {
		subject := "group " + g.GetName()
		up, members := 0, 0
		for _, r := range g.GetReplicas() {
			if r.GetMember() {
				members++
				if r.GetUp() && r.GetState().GetAttached() {
					up++
				}
			}
		}
		copies := int(g.GetCopies())
		text := fmt.Sprintf("%s; %d of %d members are up, copies %d (wanted %d, at least %d)", g.GetState(), up, members, copies, g.GetPolicy().GetCopies(), g.GetMinCopies())
		switch {
		case g.GetState() == "unavailable" || g.GetMaster() == "":
			d.say(diagnosis{severityError, "copies", subject, text, "writes are refused: " + g.GetDetail(), "bring the replicas back that are named there; see docs/runbooks.md"})
		case up <= copies:
			do := "bring the missing replicas back, or add one with `smrctl replica add`"
			if up == members {
				do = "add a replica with `smrctl replica add`"
			}
			d.say(diagnosis{severityWarning, "copies", subject, text, "the loss of one more replica stops writes until copies are lowered or it is back", do})
		case uint32(copies) < g.GetPolicy().GetCopies():
			d.say(diagnosis{severityWarning, "copies", subject, text, "fewer copies than wanted hold a write", "bring the missing replicas back"})
		case copies < 2:
			d.say(diagnosis{severityWarning, "copies", subject, text, "an acknowledged write may be on one disk only", fmt.Sprintf("raise copies: `smrctl group set %s --copies 2`", g.GetName())})
		default:
			d.fine("copies", subject, "%s: %d more may be lost", text, up-copies)
		}
		for _, r := range g.GetRecoveries() {
			d.say(diagnosis{severityNote, "copies", subject, fmt.Sprintf("recovered by force in epoch %d", r.GetEpoch()), r.GetText(), ""})
		}
	}
}

// Bounds of checkImages: how much log a start may have to execute, and how old an image should be.
const (
	imageLagBytes = 2 << 30
	imageAge      = 24 * time.Hour
)

func (d *doctor) checkImages(ctx context.Context) {
	d.eachNode(ctx, "images", func(ctx context.Context, subject string, node proto.KVNodeClient, target *proto.Target) error {
		state, err := node.State(ctx, &proto.KVStateRequest{Target: target})
		if err != nil {
			return err
		}
		if len(state.GetImages()) == 0 && state.GetApplied() < imageLagBytes {
			d.say(diagnosis{severityNote, "images", subject, fmt.Sprintf("it has no image yet, and has executed %s of log", size(state.GetApplied())), "", ""})
			return nil
		}
		if len(state.GetImages()) == 0 {
			d.say(diagnosis{severityWarning, "images", subject, "it has no image", "a start executes the whole log, and the log cannot be trimmed", "take one: `smrctl checkpoint`; start the KV node with --data"})
			return nil
		}
		newest := state.GetImages()[0]
		behind, age := state.GetApplied()-min(newest.GetLsn(), state.GetApplied()), time.Since(time.UnixMilli(newest.GetCreatedMs()))
		text := fmt.Sprintf("the newest image is %v old, and %s of log behind", age.Round(time.Second), size(behind))
		if behind > imageLagBytes || age > imageAge && behind > 0 {
			d.say(diagnosis{severityWarning, "images", subject, text, "a start takes long, and the log grows", "look into the log of the KV node why no image was taken; `smrctl checkpoint` takes one"})
			return nil
		}
		d.fine("images", subject, "%s", text)
		return nil
	})
}

// eachNode asks every KV node, all at once. One that does not answer is a finding.
func (d *doctor) eachNode(ctx context.Context, check string, ask func(ctx context.Context, subject string, node proto.KVNodeClient, target *proto.Target) error) {
	for _, g := range d.status.GetGroups() {
		askAll(d.members[g.GetName()], func(_ int, m kvMember) {
			subject := g.GetName() + "/" + m.node
			err := askNode(ctx, g.GetName(), m, nodePatience, func(ctx context.Context, node proto.KVNodeClient, target *proto.Target) error {
				return ask(ctx, subject, node, target)
			})
			if err != nil && check == "images" { // once is enough
				d.say(diagnosis{severityWarning, check, subject, err.Error(), "nothing can be said about this KV node", "start what is down; `smrctl status` shows what is there"})
			}
		})
	}
	d.sort(check)
}

// sort brings what was found by many at once in order.
func (d *doctor) sort(check string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	slices.SortStableFunc(d.found, func(a, b diagnosis) int {
		if a.Check != check || b.Check != check {
			return 0
		}
		return strings.Compare(a.Subject, b.Subject)
	})
}

func (d *doctor) checkVersions(ctx context.Context) {
	var mu sync.Mutex
	by := make(map[string][]string)
	add := func(version, who string) {
		mu.Lock()
		defer mu.Unlock()
		by[version] = append(by[version], who)
	}
	for _, g := range d.status.GetGroups() {
		for _, r := range g.GetReplicas() {
			if r.GetUp() {
				add(r.GetState().GetVersion(), "replicator of "+r.GetNode())
			}
		}
	}
	askAll(d.status.GetConfmasters(), func(_ int, c *proto.ConfmasterStatus) {
		if version, err := d.versionAt(ctx, c.GetAddr()); err == nil && c.GetUp() {
			add(version, fmt.Sprintf("configuration master c%d", c.GetId()))
		}
	})
	d.eachNode(ctx, "versions", func(ctx context.Context, subject string, node proto.KVNodeClient, target *proto.Target) error {
		state, err := node.State(ctx, &proto.KVStateRequest{Target: target})
		if err == nil {
			add(state.GetVersion(), "KV node of "+target.GetNode())
		}
		return err
	})
	var texts []string
	for version, who := range by {
		slices.Sort(who)
		texts = append(texts, fmt.Sprintf("%q: %s", version, strings.Join(who, ", ")))
	}
	slices.Sort(texts)
	if len(by) > 1 {
		d.say(diagnosis{severityWarning, "versions", "cluster", strings.Join(texts, "; "), "an upgrade is half done, or a node was left behind", "go on with the upgrade, node by node"})
		return
	}
	d.fine("versions", "cluster", "%s", strings.Join(texts, "; "))
}

// checkLevel tells when the feature level could be raised. What hinders it is no finding: versions are.
func (d *doctor) checkLevel(ctx context.Context) {
	levels, err := d.client.Levels(ctx)
	switch {
	case err != nil:
		d.say(diagnosis{severityNote, "level", "cluster", "not known: " + err.Error(), "", ""})
	case levels.GetPossible() > levels.GetLevel():
		d.say(diagnosis{severityNote, "level", "cluster", fmt.Sprintf("the feature level is %d, and every process supports %d", levels.GetLevel(), levels.GetPossible()),
			"what the newer version brings is not used yet, and the upgrade can be taken back", "when it is not to be taken back: `smrctl level raise`"})
	default:
		d.fine("level", "cluster", "feature level %d", levels.GetLevel())
	}
}

// versionAt asks one configuration master, and no other, for its version.
func (d *doctor) versionAt(ctx context.Context, addr string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, nodePatience)
	defer cancel()
	conn, err := nodeConn(d.client.Login, addr, trust.Confmaster, "")
	if err != nil {
		return "", err
	}
	defer conn.Close()
	reply, err := proto.NewConfmasterClient(conn).Status(ctx, &proto.StatusRequest{Local: true})
	if err == nil && reply.GetCluster() != d.status.GetCluster() {
		err = fmt.Errorf("cluster %q answers at %s", reply.GetCluster(), addr)
	}
	return reply.GetVersion(), err
}

// archiveAge is how long ago what is not archived yet may have been committed.
const archiveAge = 10 * time.Minute

// checkArchive looks how far the archived log is behind. The master's replicator writes it; the others say what they saw of it.
func (d *doctor) checkArchive(context.Context) {
	for _, g := range d.status.GetGroups() {
		subject := "group " + g.GetName()
		archiving := false
		for _, r := range g.GetReplicas() {
			state := r.GetState()
			if archiving = archiving || r.GetUp() && state.GetArchives(); r.GetNode() != g.GetMaster() || !state.GetArchives() {
				continue
			}
			age := time.Duration(state.GetArchiveAgeMs()) * time.Millisecond
			text := fmt.Sprintf("what was committed until %v ago is archived, %s of log are not", age.Round(time.Second), size(state.GetArchiveLagBytes()))
			if age > archiveAge && state.GetArchiveLagBytes() > 0 {
				d.say(diagnosis{severityWarning, "archive", subject, text, "after a loss of all replicas that much is gone, and the log of the master is not trimmed meanwhile",
					"look into the log of the master's replicator (msg=archive): is there room, and is the place reachable?"})
			} else {
				d.fine("archive", subject, "%s", text)
			}
		}
		if !archiving {
			d.say(diagnosis{severityNote, "archive", subject, "no replicator archives the log", "no earlier moment can be restored, only what backups hold",
				"start replicators and KV nodes with --archive"})
		}
	}
}

// clockSkew is how far clocks may be apart.
const clockSkew = 500 * time.Millisecond

// checkClocks asks every KV node's Redis port for its time, and allows for the time that the question takes.
func (d *doctor) checkClocks(ctx context.Context) {
	for _, g := range d.status.GetGroups() {
		type reading struct {
			node          string
			offset, error time.Duration
		}
		var mu sync.Mutex
		var list []reading
		askAll(d.members[g.GetName()], func(_ int, m kvMember) {
			if m.addr == "" {
				return
			}
			began := time.Now()
			words, err := redisAsk(ctx, m.login, m.kvAddr, "TIME")
			took := time.Since(began)
			if err != nil || len(words) != 2 {
				do := ""
				if err != nil && (strings.Contains(err.Error(), "NOAUTH") || strings.Contains(err.Error(), "WRONGPASS")) {
					do = "give --password-file, and --user unless it is the default user's"
				}
				d.say(diagnosis{severityNote, "clocks", g.GetName() + "/" + m.node, fmt.Sprintf("its clock is not known: %v", err), "", do})
				return
			}
			seconds, _ := strconv.ParseInt(words[0], 10, 64)
			micros, _ := strconv.ParseInt(words[1], 10, 64)
			mu.Lock()
			list = append(list, reading{m.node, time.Unix(seconds, micros*1000).Sub(began.Add(took / 2)), took / 2})
			mu.Unlock()
		})
		if len(list) < 2 {
			continue
		}
		slices.SortFunc(list, func(a, b reading) int { return cmp.Compare(a.offset, b.offset) })
		low, high := list[0], list[len(list)-1]
		if apart := high.offset - low.offset; apart-high.error-low.error > clockSkew {
			d.say(diagnosis{severityWarning, "clocks", "group " + g.GetName(), fmt.Sprintf("%s is %v ahead of %s", high.node, apart.Round(time.Millisecond), low.node),
				"safety does not hang on clocks, but expiry jumps when mastership moves", "run chrony or systemd-timesyncd on every node"})
			continue
		}
		d.fine("clocks", "group "+g.GetName(), "%d clocks agree within %v", len(list), clockSkew)
	}
	d.checkLogTime(ctx)
}

// checkLogTime finds a clock that has jumped: log time never goes back, so that it stands ahead of the clocks for as long as one was wrong.
func (d *doctor) checkLogTime(ctx context.Context) {
	d.eachNode(ctx, "clocks", func(ctx context.Context, subject string, node proto.KVNodeClient, target *proto.Target) error {
		state, err := node.State(ctx, &proto.KVStateRequest{Target: target})
		if err != nil || state.GetClockMs() == 0 { // of an earlier version
			return err
		}
		ahead := time.Duration(state.GetLogTimeMs()-state.GetClockMs()) * time.Millisecond
		if ahead > clockSkew {
			d.say(diagnosis{severityWarning, "clocks", subject, fmt.Sprintf("log time is %v ahead of its clock", ahead.Round(time.Millisecond)),
				"a master's clock was ahead and went back, or this one did: no key expires until the clocks have caught up",
				"run chrony or systemd-timesyncd on every node, with slewing and not with steps"})
		} else {
			d.fine("clocks", subject, "log time is not ahead of its clock")
		}
		return nil
	})
}

// redisAsk sends one command and returns the strings of its reply.
func redisAsk(ctx context.Context, login admin.Login, addr string, command string) ([]string, error) {
	conn, err := redisConn(ctx, login, addr)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(nodePatience)); err != nil {
		return nil, err
	}
	if _, err := fmt.Fprintf(conn, "%s\r\n", command); err != nil {
		return nil, err
	}
	return readStrings(conn)
}

func (d *doctor) checkSettings(ctx context.Context) {
	for _, g := range d.status.GetGroups() {
		now, err := settingsNow(ctx, d.client, g.GetName(), "")
		if err != nil {
			d.say(diagnosis{severityNote, "settings", "group " + g.GetName(), "not known: " + err.Error(), "", ""})
			continue
		}
		drifts := 0
		for _, x := range now.Differences() {
			if !strings.HasPrefix(x.Why, "not known: ") {
				drifts++
			}
		}
		if drifts > 0 {
			d.say(diagnosis{severityWarning, "settings", "group " + g.GetName(), fmt.Sprintf("%d differences", drifts), "nodes do not have what is wanted, and will behave differently",
				"`smrctl config diff` shows where and why; `smrctl config set` brings it to all nodes again"})
			continue
		}
		d.fine("settings", "group "+g.GetName(), "version %d", now.Wanted.GetVersion())
	}
}

// checkExposure looks for a default user without password where others can connect: at the address as it is announced. What a
// node listens on it alone knows.
func (d *doctor) checkExposure(ctx context.Context) {
	for _, g := range d.status.GetGroups() {
		for _, m := range d.members[g.GetName()] {
			subject := g.GetName() + "/" + m.node
			host, _, err := net.SplitHostPort(m.kvAddr)
			if err != nil {
				continue
			}
			if ip := net.ParseIP(host); ip != nil && ip.IsLoopback() || host == "localhost" {
				d.fine("exposure", subject, "Redis clients connect to %s: this machine only", m.kvAddr)
				continue
			}
			reply, err := redisAsk(ctx, admin.Login{Keeper: m.login.Keeper}, m.kvAddr, "PING")
			switch {
			case err == nil && len(reply) == 1 && reply[0] == "PONG":
				d.say(diagnosis{severityError, "exposure", subject, "Redis clients connect to " + m.kvAddr + " without a password", "whoever reaches the address reads and writes everything",
					"give the user default a password: `smrctl user set default --password-file FILE`; give clients TLS (--tls-listen) or keep the port in a private network"})
			case err != nil && (strings.Contains(err.Error(), "NOAUTH") || strings.Contains(err.Error(), "DENIED")):
				d.fine("exposure", subject, "%s wants a password, or lets nobody in from elsewhere", m.kvAddr)
			default:
				d.say(diagnosis{severityNote, "exposure", subject, fmt.Sprintf("not known: %v", err), "", ""})
			}
		}
	}
}

// machineName is the subject of what is looked at on this machine.
func machineName() string {
	if name, err := os.Hostname(); err == nil {
		return "machine " + name
	}
	return "this machine"
}
