package ctl

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"lockstep/internal/archive/s3"
	"lockstep/internal/bytesize"
	"lockstep/internal/local"
	"lockstep/proto"
)

func newUp(s *screen) *cobra.Command {
	var at where
	var asked local.Options
	var tierMemory string
	var detach bool
	var timeout time.Duration
	var dry dryRun
	defaults := local.Options{}.WithDefaults()
	command := &cobra.Command{
		Use:   "up",
		Short: "Start a cluster on this machine and wait until it serves",
		Long: `Starts every process of a cluster on the loopback interface as a process of its own: configuration masters,
replicators and KV nodes, with data and logs below the directory. A directory that holds a cluster is resumed with its
data. In the foreground it then shows events until Ctrl-C, which stops everything.

Ports, from --port P: KV nodes P, P+1, …; replicators P+10000+i (data) and P+11000+i (management); configuration
masters P+12000+i; Sentinel P+20000+i. Metrics and health (HTTP): KV nodes P+3000+i, replicators P+6000+i,
configuration masters P+15000+i.

Where there are fewer processors than nodes, the processes of a node share one, but those of the nodes that are left over
when each processor has as many: these use two. What writes images may use any.

Binaries are taken from beside smrctl; if they are not there and this is the source tree, they are built into DIR/bin.`,
		Example: "  smrctl up\n  smrctl up --dir /var/tmp/two --replicas 5 --port 7000 --detach",
		Args:    cobra.NoArgs,
	}
	flags := command.Flags()
	at.addDir(command)
	flags.IntVar(&asked.Replicas, "replicas", defaults.Replicas, fmt.Sprintf("replicas, 1 to %d", local.MaxReplicas))
	flags.IntVar(&asked.Confmasters, "confmasters", defaults.Confmasters, "configuration masters: 1, 3 or 5")
	flags.IntVar(&asked.Port, "port", defaults.Port, fmt.Sprintf("Redis port of the first KV node, 1 to %d", local.MaxPort))
	flags.IntVar(&asked.Copies, "copies", defaults.Copies, "replicas that must hold a write, master included (default: more than half)")
	flags.IntVar(&asked.MinCopies, "min-copies", defaults.MinCopies, "how far copies may be lowered automatically (default: not at all)")
	flags.StringVar(&asked.Sync, "sync", defaults.Sync, "when a write counts as durable: always, interval or os")
	flags.StringVar(&asked.Archive, "archive", "", "existing `directory`, or s3://BUCKET/PREFIX, into which everything that is committed is archived, for backups and restores; it stays so when the cluster is resumed")
	flags.BoolVar(&asked.TLS, "tls", false, "make a CA and certificates in DIR/tls, and let nothing connect without them; it stays so when the cluster is resumed")
	flags.StringVar(&tierMemory, "tier-memory", "", "`bytes` of memory for the process of each KV node, as 1GiB; values used least are read from images then; it stays so when the cluster is resumed")
	flags.BoolVar(&detach, "detach", false, "return once the cluster serves; stop it with 'smrctl down'")
	flags.DurationVar(&timeout, "timeout", time.Minute, "how long to wait for the cluster to serve")
	dry.add(command)
	complete(command, "sync", "always", "interval", "os")
	command.RunE = func(command *cobra.Command, _ []string) error {
		if tierMemory != "" {
			var err error
			if asked.TierMemory, err = bytesize.Parse(tierMemory, bytesize.Max); err != nil || asked.TierMemory < local.MinTierMemory {
				return usage("--tier-memory %s: use at least %s", tierMemory, bytesize.Format(local.MinTierMemory))
			}
		}
		if err := keepGiven(command, &asked); err != nil {
			return err
		}
		if timeout <= 0 {
			return usage("timeout %v: use more than 0", timeout)
		}
		return work(func(ctx context.Context, _ []string) error {
			if dry.on {
				return wouldStart(s, &dry, at.dir, asked)
			}
			return up(ctx, s, at.dir, asked, timeout, detach)
		})(command, nil)
	}
	return command
}

// keepGiven checks what was given on the command line and sets the rest of asked to zero: not asked for.
func keepGiven(command *cobra.Command, asked *local.Options) error {
	given := command.Flags().Changed
	all := *asked
	if given("archive") && s3.Names(all.Archive) {
		if err := s3.Check(all.Archive); err != nil {
			return &misuse{err}
		}
	} else if given("archive") {
		path, err := filepath.Abs(all.Archive)
		if err != nil {
			return &misuse{err}
		}
		if info, err := os.Stat(path); err != nil || !info.IsDir() {
			return usage("--archive %q is no directory: make it first", all.Archive)
		}
		all.Archive = path
	}
	if !given("copies") {
		all.Copies = 0
	}
	if !given("min-copies") {
		all.MinCopies = 0
	}
	for _, name := range []string{"replicas", "confmasters", "port", "copies", "min-copies", "sync"} {
		if value := command.Flags().Lookup(name).Value.String(); given(name) && (value == "0" || value == "") {
			return usage("--%s %q makes no sense", name, value)
		}
	}
	if err := all.WithDefaults().Check(); err != nil {
		return &misuse{err}
	}
	*asked = local.Options{Archive: all.Archive, TLS: all.TLS, TierMemory: all.TierMemory}
	keep := func(name string, target, value *int) {
		if given(name) {
			*target = *value
		}
	}
	keep("replicas", &asked.Replicas, &all.Replicas)
	keep("confmasters", &asked.Confmasters, &all.Confmasters)
	keep("port", &asked.Port, &all.Port)
	keep("copies", &asked.Copies, &all.Copies)
	keep("min-copies", &asked.MinCopies, &all.MinCopies)
	if given("sync") {
		asked.Sync = all.Sync
	}
	return nil
}

// wouldStart looks at all that up looks at before it starts anything, and says what that would be.
func wouldStart(s *screen, dry *dryRun, dir string, asked local.Options) error {
	cluster, err := local.Prepare(dir, asked)
	if err != nil {
		return err
	}
	if err := cluster.Preflight(); err != nil {
		return err
	}
	first := "found a new cluster in " + cluster.Dir
	if cluster.Resumed {
		first = "resume the cluster in " + cluster.Dir
	}
	plan := cluster.Plan
	steps := []string{fmt.Sprintf("%s: %d replicas, copies %d (at least %d), sync %s", first, len(plan.Replicas), plan.Copies, plan.MinCopies, plan.Sync)}
	for _, p := range cluster.Processes() {
		steps = append(steps, fmt.Sprintf("start %s at %s", p.Name, p.Addr))
	}
	return dry.show(s, append(steps, "wait until the group serves"))
}

func up(ctx context.Context, s *screen, dir string, asked local.Options, timeout time.Duration, detach bool) error {
	cluster, err := local.Prepare(dir, asked)
	if err != nil {
		return err
	}
	cluster.Progress = s.note
	if err := cluster.Preflight(); err != nil {
		return err
	}
	bin, err := binaries(ctx, dir, s)
	if err != nil {
		return err
	}
	if cluster.Resumed {
		s.note("resuming the cluster in " + cluster.Dir)
	}
	starting, cancel := context.WithTimeout(ctx, timeout)
	err = cluster.Start(starting, bin)
	cancel()
	if ctx.Err() != nil {
		return errors.New("interrupted while starting")
	}
	if err != nil {
		return err
	}
	if err := showCluster(ctx, s, cluster, dir); err != nil {
		return err
	}
	if detach {
		return nil
	}
	followEvents(ctx, s, cluster)
	if ctx.Err() == nil {
		if cluster.StoppedOnPurpose() {
			s.note("stopped by another smrctl")
			return nil
		}
		return fmt.Errorf("no process of the cluster runs any more; `smrctl up --dir %s` resumes it", dir)
	}
	s.note("stopping everything")
	_, killed, err := cluster.Stop()
	if err == nil && len(killed) > 0 {
		s.note("had to be killed: " + strings.Join(killed, ", "))
	}
	return err
}

// listing is what `up` shows: what listens where.
type listing struct {
	Dir       string    `json:"dir"`
	Cluster   string    `json:"cluster"`
	Group     string    `json:"group"`
	Master    string    `json:"master"`
	Pages     []string  `json:"pages"` // web pages of the configuration masters
	Processes []process `json:"processes"`
}

type process struct {
	Name    string            `json:"name"`
	Kind    string            `json:"kind"`
	Node    string            `json:"node"`
	Pid     int               `json:"pid"`
	Listens map[string]string `json:"listens"`
}

func showCluster(ctx context.Context, s *screen, cluster *local.Cluster, dir string) error {
	list := listing{Dir: cluster.Dir, Cluster: cluster.Plan.Cluster, Group: cluster.Plan.Group, Master: masterOf(ctx, cluster), Pages: cluster.WebPages()}
	listens := make(map[string]map[string]string)
	for _, m := range cluster.Plan.Confmasters {
		listens[m.Name()] = map[string]string{"grpc": m.Addr, "sentinel": m.SentinelAddr}
	}
	for _, r := range cluster.Plan.Replicas {
		listens[local.ReplicatorOf(r.Node)] = map[string]string{"data": r.DataAddr, "grpc": r.ManageAddr}
		listens[local.KVNodeOf(r.Node)] = map[string]string{"redis": r.KVAddr, "grpc": r.AdminAddr()}
	}
	for _, p := range cluster.Processes() {
		list.Processes = append(list.Processes, process{Name: p.Name, Kind: string(p.Kind), Node: p.Node, Pid: p.Pid, Listens: listens[p.Name]})
	}
	return s.show(list, func() {
		rows := [][]string{{"PROCESS", "PID", "REDIS", "SENTINEL", "DATA", "GRPC", "LOG"}}
		for _, p := range list.Processes {
			rows = append(rows, []string{p.Name, fmt.Sprint(p.Pid), p.Listens["redis"], p.Listens["sentinel"], p.Listens["data"],
				p.Listens["grpc"], relative(cluster.LogPath(p.Name), cluster.Dir, dir)})
		}
		s.table(rows)
		s.printf("\nGroup %s serves. Its master is %s; any KV node takes any command. Try:\n", list.Group, list.Master)
		ports := cluster.Plan.Replicas
		client := "redis-cli"
		if files := cluster.ClientCertificate(); cluster.Plan.TLS {
			client += " --tls --cacert " + relative(files.CA, cluster.Dir, dir) + " --cert " + relative(files.Cert, cluster.Dir, dir) + " --key " + relative(files.Key, cluster.Dir, dir)
		}
		s.printf("  %s -p %s set a 1\n", client, port(ports[min(1, len(ports)-1)].KVAddr))
		s.printf("  %s -p %s get a\n", client, port(ports[min(2, len(ports)-1)].KVAddr))
		s.printf("  %s node kill %s%s\n", program(), list.Master, dirFlag(dir))
		s.printf("The web page: %s\n\n", list.Pages[0])
	})
}

func masterOf(ctx context.Context, cluster *local.Cluster) string {
	client, err := cluster.Admin()
	if err != nil {
		return ""
	}
	defer client.Close()
	status, err := client.Status(ctx)
	if err != nil {
		return ""
	}
	for _, group := range status.GetGroups() {
		if group.GetName() == cluster.Plan.Group {
			return group.GetMaster()
		}
	}
	return ""
}

// relative shows a path below base as the user named base.
func relative(path, base, shown string) string {
	if below, err := filepath.Rel(base, path); err == nil {
		return filepath.Join(shown, below)
	}
	return path
}

func port(addr string) string { return addr[strings.LastIndex(addr, ":")+1:] }

func dirFlag(dir string) string {
	if dir == defaultDir {
		return ""
	}
	return " --dir " + dir
}

// followEvents shows what happens until ctx is done or no process runs any more.
func followEvents(ctx context.Context, s *screen, cluster *local.Cluster) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	client, err := cluster.Admin()
	if err != nil {
		s.note(err.Error())
		return
	}
	defer client.Close()
	s.note("Events (Ctrl-C stops everything):")
	shown := make(chan *proto.Event, 64) // full: the stream from the configuration master waits
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = client.Events(ctx, "", 0, func(event *proto.Event) {
			select {
			case shown <- event:
			case <-ctx.Done():
			}
		})
	}()
	defer func() { cancel(); <-ended }()

	began := time.Now()
	before := cluster.Processes()
	look := time.NewTicker(500 * time.Millisecond)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case event := <-shown:
			if event.GetTimeMs() >= began.UnixMilli() { // older ones are the story of the start
				showEvent(s, event)
			}
		case <-look.C:
			now := cluster.Processes()
			if showChanges(s, before, now) == 0 {
				return
			}
			before = now
		}
	}
}

// happening is one event, or a process that ended or began.
type happening struct {
	Time  string `json:"time"`
	Name  string `json:"name"`
	Group string `json:"group,omitempty"`
	Node  string `json:"node,omitempty"`
	Epoch uint64 `json:"epoch,omitempty"`
	Text  string `json:"text"`
}

func (h happening) show(s *screen) {
	clock := h.Time[11:23]
	where := strings.TrimSpace(h.Group + " " + h.Node)
	if h.Epoch != 0 {
		where += fmt.Sprintf(" epoch %d", h.Epoch)
	}
	s.line(h, fmt.Sprintf("%s  %-12s  %-16s  %s", clock, h.Name, where, h.Text))
}

const timeForm = "2006-01-02T15:04:05.000Z07:00"

func showEvent(s *screen, event *proto.Event) {
	happening{
		Time: time.UnixMilli(event.GetTimeMs()).Format(timeForm), Name: event.GetName(), Group: event.GetGroup(),
		Node: event.GetNode(), Epoch: event.GetEpoch(), Text: event.GetText(),
	}.show(s)
}

// showChanges shows which processes ended and which were started anew; it returns how many run.
func showChanges(s *screen, before, now []local.Process) (running int) {
	for i, p := range now {
		if p.Pid != 0 {
			running++
		}
		old := before[i].Pid
		if old == p.Pid {
			continue
		}
		if old != 0 {
			happening{Time: time.Now().Format(timeForm), Name: "ended", Node: p.Node, Text: fmt.Sprintf("%s (pid %d) has ended", p.Name, old)}.show(s)
		}
		if p.Pid != 0 {
			happening{Time: time.Now().Format(timeForm), Name: "started", Node: p.Node, Text: fmt.Sprintf("%s runs (pid %d)", p.Name, p.Pid)}.show(s)
		}
	}
	return running
}
