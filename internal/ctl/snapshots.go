package ctl

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"lockstep/internal/archive"
	"lockstep/internal/archive/s3"
	"lockstep/internal/backup"
	"lockstep/internal/bytesize"
	"lockstep/internal/checkpoint"
	"lockstep/internal/local"
	"lockstep/proto"
	"lockstep/smr"
)

func imageDir(images string, lsn smr.LSN) string { return filepath.Join(images, checkpoint.Name(lsn)) }

// imageLine is an image as JSON.
type imageLine struct {
	Node  string `json:"node,omitempty"`
	LSN   uint64 `json:"lsn"`
	Time  string `json:"time"` // log time
	Keys  uint64 `json:"keys"`
	Bytes uint64 `json:"bytes"`
}

func newCheckpoint(s *screen) *cobra.Command {
	var at where
	var node string
	var dry dryRun
	command := &cobra.Command{
		Use:   "checkpoint [GROUP]",
		Short: "Make KV nodes take an image of their state now",
		Long:  "Makes every KV node of a group (or the one given with --node) take an image, and returns when it is durable and verified. The\nlog below it may then be trimmed. Nodes take images by themselves, too.",
		Args:  cobra.MaximumNArgs(1),
		RunE: work(func(ctx context.Context, args []string) error {
			nodes, err := findNodes(ctx, &at, args, node)
			if err != nil {
				return err
			}
			if dry.on {
				var steps []string
				for _, peer := range nodes.peers {
					steps = append(steps, fmt.Sprintf("node %s of group %s takes an image", peer.Node, nodes.group))
				}
				return dry.show(s, steps)
			}
			var list []imageLine
			var problems []error
			shown := s.thingsDone()
			defer shown.end()
			for at, peer := range nodes.peers {
				shown.tell(fmt.Sprintf("node %s takes an image", peer.Node), int64(at), int64(len(nodes.peers)))
				image, err := checkpointOf(ctx, nodes, peer)
				if err != nil {
					problems = append(problems, err)
					continue
				}
				list = append(list, imageOf(string(peer.Node), image))
			}
			shown.end()
			err = s.show(map[string][]imageLine{"images": list}, func() {
				for _, i := range list {
					s.printf("node %s: image of LSN %d, %s, %d keys, %s\n", i.Node, i.LSN, i.Time, i.Keys, size(i.Bytes))
				}
			})
			return errors.Join(append(problems, err)...)
		}),
	}
	at.addAll(command)
	dry.add(command)
	command.Flags().StringVar(&node, "node", "", "only this node")
	return command
}

func imageOf(node string, i *proto.Image) imageLine {
	return imageLine{Node: node, LSN: i.GetLsn(), Time: stampText(i.GetStampMs()), Keys: i.GetKeys(), Bytes: i.GetBytes()}
}

func stampText(stamp int64) string { return time.UnixMilli(stamp).Format(timeForm) }

// archived says which archive a command is about.
type archived struct {
	path           string
	cluster, group string
}

func (a *archived) addFlags(command *cobra.Command) {
	command.Flags().StringVar(&a.path, "archive", "", "`directory` of the archive, or s3://BUCKET/PREFIX (required)")
	command.Flags().StringVar(&a.cluster, "cluster", "", "id of the archived cluster (default: the only one in the archive)")
	command.Flags().StringVar(&a.group, "group", "", "archived group (default: the only one in the archive)")
	for _, err := range []error{command.MarkFlagRequired("archive"), command.MarkFlagDirname("archive")} {
		if err != nil {
			panic(err) // the flag stands above
		}
	}
}

// open opens the archive of the group that is meant.
func (a *archived) open(ctx context.Context) (backup.Archive, error) {
	store, err := s3.Open(a.path)
	if err != nil {
		return backup.Archive{}, err
	}
	groups, err := archive.Groups(ctx, store)
	if err != nil {
		return backup.Archive{}, err
	}
	if len(groups) == 0 {
		return backup.Archive{}, fmt.Errorf("archive %s is empty: `smrctl backup create` puts a backup into it, replicators and KV nodes with --archive do by themselves", a.path)
	}
	var fitting []archive.Identity
	for _, g := range groups {
		if (a.cluster == "" || g.Cluster == a.cluster) && (a.group == "" || g.Group == a.group) {
			fitting = append(fitting, g)
		}
	}
	switch len(fitting) {
	case 0:
		return backup.Archive{}, fmt.Errorf("archive %s holds nothing of cluster %q, group %q: it holds %v", a.path, a.cluster, a.group, groups)
	case 1:
		return backup.Archive{Store: store, Cluster: fitting[0].Cluster, Group: fitting[0].Group}, nil
	}
	return backup.Archive{}, usage("archive %s holds several groups: name one with --cluster and --group: %v", a.path, fitting)
}

// backupLine is a backup as JSON.
type backupLine struct {
	LSN     uint64 `json:"lsn"`
	Time    string `json:"time"` // log time
	Created string `json:"created"`
	Bytes   int64  `json:"bytes"`
	Label   string `json:"label,omitempty"`
	Node    string `json:"node,omitempty"` // whose image it is
	// Of verify.
	LogEnd  uint64 `json:"log_end_lsn,omitempty"`
	LogTime string `json:"log_end_time,omitempty"`
	Gap     string `json:"gap,omitempty"`
}

func backupOf(b backup.Backup) backupLine {
	return backupLine{LSN: uint64(b.LSN), Time: stampText(b.Stamp), Created: b.Created.Local().Format(timeForm), Bytes: b.Bytes, Label: b.Label, Node: b.Node}
}

func newBackup(s *screen) *cobra.Command {
	return group("backup", "Keep images of a group in an archive, and look after them",
		newBackupCreate(s), newBackupList(s), newBackupVerify(s), newBackupDelete(s), newBackupTrim(s))
}

func newBackupCreate(s *screen) *cobra.Command {
	var at where
	var path, label, node string
	var rate int64
	var dry dryRun
	command := &cobra.Command{
		Use:   "create [GROUP]",
		Short: "Take an image of a living group and put it into the archive",
		Long: "Makes a KV node (a slave by preference) take an image, and copies it into the archive. With replicators that run with\n" +
			"--archive on the same directory, every later moment can then be restored, too.",
		Args: cobra.MaximumNArgs(1),
		RunE: work(func(ctx context.Context, args []string) error {
			store, err := s3.Open(path)
			if err != nil {
				return err
			}
			nodes, err := findNodes(ctx, &at, args, node)
			if err != nil {
				return err
			}
			if dry.on {
				return dry.show(s, []string{fmt.Sprintf("node %s of group %s takes an image", nodes.peers[0].Node, nodes.group),
					fmt.Sprintf("the image is copied into %v", store)})
			}
			scratch, err := os.MkdirTemp("", "smrctl-backup-")
			if err != nil {
				return fmt.Errorf("make a directory for the image (TMPDIR says where): %w", err)
			}
			defer os.RemoveAll(scratch)
			dir, source, err := freshImage(ctx, s, nodes, scratch, rate)
			if err != nil {
				return err
			}
			shown := s.bytesDone()
			b, err := backup.Archive{Store: store, Cluster: nodes.cluster, Group: nodes.group, Progress: shown.tell}.Create(ctx, backup.Source{Dir: dir, Node: source, Label: label})
			shown.end()
			if err != nil {
				return err
			}
			line := backupOf(b)
			return s.show(line, func() {
				s.printf("backup of group %s at LSN %d, %s: %s in %s\n", nodes.group, line.LSN, line.Time, size(uint64(line.Bytes)), store)
			})
		}),
	}
	at.addAll(command)
	dry.add(command)
	command.Flags().StringVar(&path, "archive", "", "existing `directory` of the archive, or s3://BUCKET/PREFIX (required)")
	command.Flags().StringVar(&label, "label", "", "a word for people, shown by list")
	command.Flags().StringVar(&node, "node", "", "take the image from this node")
	command.Flags().Int64Var(&rate, "rate", 0, "most bytes a second from the node; 0 for no bound but its own")
	if err := command.MarkFlagRequired("archive"); err != nil {
		panic(err) // the flag stands above
	}
	return command
}

func newBackupList(s *screen) *cobra.Command {
	var from archived
	command := &cobra.Command{
		Use:   "list",
		Short: "List the backups in an archive, and how far the archived log reaches",
		Args:  cobra.NoArgs,
		RunE: work(func(ctx context.Context, _ []string) error {
			a, err := from.open(ctx)
			if err != nil {
				return err
			}
			list, problems, err := a.List(ctx)
			if err != nil {
				return err
			}
			end, err := a.Log().End(ctx)
			if err != nil {
				return err
			}
			lines := []backupLine{}
			for _, b := range list {
				lines = append(lines, backupOf(b))
			}
			result := struct {
				Cluster string       `json:"cluster"`
				Group   string       `json:"group"`
				Backups []backupLine `json:"backups"`
				LogEnd  uint64       `json:"log_end_lsn"`
			}{a.Cluster, a.Group, lines, uint64(end)}
			err = s.show(result, func() {
				rows := [][]string{{"LSN", "TIME", "CREATED", "SIZE", "NODE", "LABEL"}}
				for _, l := range lines {
					rows = append(rows, []string{decimal(l.LSN), l.Time, l.Created, size(uint64(l.Bytes)), l.Node, l.Label})
				}
				s.printf("cluster %s, group %s\n", a.Cluster, a.Group)
				s.table(rows)
				if end == 0 {
					s.printf("No log is archived: only the LSNs of the backups can be restored.\n")
					return
				}
				s.printf("The archived log ends at LSN %d.\n", end)
			})
			return errors.Join(append(problems, err)...)
		}),
	}
	from.addFlags(command)
	return command
}

// parseLSN reads an argument.
func parseLSN(text string) (smr.LSN, error) {
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, usage("%q is no LSN: `smrctl backup list` shows them", text)
	}
	return smr.LSN(n), nil
}

func newBackupVerify(s *screen) *cobra.Command {
	var from archived
	command := &cobra.Command{
		Use:   "verify [LSN…]",
		Short: "Read every byte of backups, and of the archived log behind them",
		Long:  "Checks the backups of the LSNs given, or all: every file against its checksum, and that the log follows the image without a gap,\nframe by frame. It shows up to where each can be rolled forward, and fails if anything is damaged or missing.",
		RunE: work(func(ctx context.Context, args []string) error {
			a, err := from.open(ctx)
			if err != nil {
				return err
			}
			var wanted []smr.LSN
			for _, arg := range args {
				lsn, err := parseLSN(arg)
				if err != nil {
					return err
				}
				wanted = append(wanted, lsn)
			}
			var problems []error
			if len(args) == 0 {
				list, bad, err := a.List(ctx)
				if err != nil {
					return err
				}
				problems = bad
				for _, b := range list {
					wanted = append(wanted, b.LSN)
				}
			}
			lines := []backupLine{}
			for _, lsn := range wanted {
				v, err := a.Verify(ctx, lsn)
				if err != nil {
					problems = append(problems, err)
					continue
				}
				line := backupOf(v.Backup)
				line.LogEnd, line.LogTime = uint64(v.LogEnd), stampText(v.LogStamp)
				if v.Gap != nil {
					line.Gap = v.Gap.Error()
					problems = append(problems, fmt.Errorf("backup of LSN %d: %w", lsn, v.Gap))
				}
				lines = append(lines, line)
			}
			err = s.show(map[string][]backupLine{"backups": lines}, func() {
				for _, l := range lines {
					s.printf("LSN %d, %s: every file checks; restorable up to LSN %d, %s\n", l.LSN, l.Time, l.LogEnd, l.LogTime)
				}
			})
			return errors.Join(append(problems, err)...)
		}),
	}
	from.addFlags(command)
	return command
}

func newBackupDelete(s *screen) *cobra.Command {
	var from archived
	var keepLog bool
	var dry dryRun
	command := &cobra.Command{
		Use:   "delete LSN…",
		Short: "Delete backups, and the archived log that no other backup needs",
		Args:  cobra.MinimumNArgs(1),
		RunE: work(func(ctx context.Context, args []string) error {
			a, err := from.open(ctx)
			if err != nil {
				return err
			}
			var going []smr.LSN
			for _, arg := range args {
				lsn, err := parseLSN(arg)
				if err != nil {
					return err
				}
				going = append(going, lsn)
			}
			if dry.on {
				steps, err := deleteSteps(ctx, a, going, keepLog)
				if err != nil {
					return err
				}
				return dry.show(s, steps)
			}
			for _, lsn := range going {
				if _, _, err := a.Get(ctx, lsn); errors.Is(err, fs.ErrNotExist) { // nothing is deleted then
					return err
				}
			}
			for _, lsn := range going {
				if err := a.Delete(ctx, lsn); err != nil {
					return err
				}
			}
			dropped := 0
			if !keepLog {
				plan, err := a.Plan(ctx, backup.Keep{}, time.Now())
				if err == nil {
					err = a.Remove(ctx, plan)
				}
				if err != nil {
					return err
				}
				dropped = len(plan.Log)
			}
			result := struct {
				Deleted []string `json:"deleted"`
				Ranges  int      `json:"log_ranges_removed"`
			}{args, dropped}
			return s.show(result, func() {
				s.printf("deleted %d backups and %d ranges of the archived log\n", len(args), dropped)
			})
		}),
	}
	from.addFlags(command)
	dry.add(command)
	command.Flags().BoolVar(&keepLog, "keep-log", false, "keep the archived log, too")
	return command
}

// deleteSteps says what a deletion removes.
func deleteSteps(ctx context.Context, a backup.Archive, going []smr.LSN, keepLog bool) (steps []string, err error) {
	list, problems, err := a.List(ctx)
	if err == nil {
		err = errors.Join(problems...)
	}
	if err != nil {
		return nil, err
	}
	var stays []smr.LSN
	for _, b := range list {
		if !slices.Contains(going, b.LSN) {
			stays = append(stays, b.LSN)
		}
	}
	for _, lsn := range going {
		b, _, err := a.Get(ctx, lsn)
		if err != nil {
			return nil, err
		}
		steps = append(steps, fmt.Sprintf("remove the backup of LSN %d, %s, %s", lsn, stampText(b.Stamp), size(uint64(b.Bytes))))
	}
	switch {
	case keepLog:
		steps = append(steps, "keep the archived log")
	case len(stays) == 0:
		steps = append(steps, "keep the archived log: the next backup will need it")
	default:
		steps = append(steps, fmt.Sprintf("remove the archived log below LSN %d, where the oldest backup that stays begins", stays[0]))
	}
	return steps, nil
}

func newBackupTrim(s *screen) *cobra.Command {
	var from archived
	var keep backup.Keep
	var most string
	var dry dryRun
	command := &cobra.Command{
		Use:   "trim",
		Short: "Remove what is too old or too much of an archive",
		Long: "Removes the oldest backups as far as the bounds say, the archived log that the remaining ones do not need, and what crashes left\n" +
			"behind. The newest backup always stays, and all of the log behind the oldest one that stays. KV nodes that archive images do the\n" +
			"same by themselves with --archive-keep-age, --archive-keep-bytes and --archive-keep-images.",
		Args: cobra.NoArgs,
		RunE: work(func(ctx context.Context, _ []string) error {
			var err error
			if keep.Bytes, err = bytesize.Parse(most, bytesize.Max); err != nil {
				return usage("--keep-bytes: %v", err)
			}
			if err := keep.Check(); err != nil {
				return &misuse{err}
			}
			a, err := from.open(ctx)
			if err != nil {
				return err
			}
			plan, err := a.Plan(ctx, keep, time.Now())
			if err != nil {
				return err
			}
			if dry.on {
				return dry.show(s, trimSteps(plan))
			}
			if err := a.Remove(ctx, plan); err != nil {
				return err
			}
			parts, err := a.Sweep(ctx, time.Now())
			if err != nil {
				return err
			}
			result := struct {
				Removed int   `json:"backups_removed"`
				Ranges  int   `json:"log_ranges_removed"`
				Left    int   `json:"leftovers_removed"`
				Bytes   int64 `json:"bytes_removed"`
				Kept    int   `json:"backups_kept"`
				Remains int64 `json:"bytes_kept"`
			}{len(plan.Images), len(plan.Log), len(plan.Leftover) + parts, plan.Bytes(), len(plan.Kept), plan.Remains}
			return s.show(result, func() {
				s.printf("removed %d backups and %d ranges of the archived log, %s; %d backups, %s, remain\n",
					result.Removed, result.Ranges, size(uint64(result.Bytes)), result.Kept, size(uint64(result.Remains)))
			})
		}),
	}
	from.addFlags(command)
	dry.add(command)
	flags := command.Flags()
	flags.DurationVar(&keep.Age, "keep-age", 0, "`time` to every moment of which the group can still be restored, like 720h")
	flags.StringVar(&most, "keep-bytes", "0", "most `bytes` of backups and log, or with MiB, GiB")
	flags.IntVar(&keep.Images, "keep-images", 0, "most `backups`")
	return command
}

// trimSteps says what a plan removes, and what stays.
func trimSteps(plan backup.Plan) (steps []string) {
	for _, image := range plan.Images {
		steps = append(steps, fmt.Sprintf("remove the backup of LSN %d, %s, %s: %s", image.LSN, stampText(image.Stamp), size(uint64(image.Bytes)), image.Why))
	}
	if n := len(plan.Log); n > 0 {
		var bytes int64
		for _, r := range plan.Log {
			bytes += r.Bytes
		}
		steps = append(steps, fmt.Sprintf("remove %d ranges of the archived log, from LSN %d to %d, %s: no backup that stays needs them",
			n, plan.Log[0].From, plan.Log[n-1].End, size(uint64(bytes))))
	}
	if n := len(plan.Leftover); n > 0 {
		steps = append(steps, fmt.Sprintf("remove %d objects that a crash left behind", n))
	}
	if len(steps) > 0 {
		steps = append(steps, fmt.Sprintf("keep %d backups, the oldest of LSN %d, and the log behind it: %s", len(plan.Kept), plan.Kept[0].LSN, size(uint64(plan.Remains))))
	}
	return steps
}

func newRestore(s *screen) *cobra.Command {
	var from archived
	var into, toTime, newCluster string
	var toLSN, chosen uint64
	var asked local.Options
	var dry dryRun
	command := &cobra.Command{
		Use:   "restore",
		Short: "Make a new cluster with the state of an earlier moment",
		Long: `Makes the directories of a new cluster of a backup and the archived log behind it, with the state as it was at the LSN or
time given, or the newest that is archived. The new cluster has an id of its own: it never mixes with the old one, which may go
on running. Start it with ` + "`smrctl up --dir DIR`" + `, or copy DIR/NODE (for replicator --dir) and
DIR/NODE-images (for kvnode --data) to the machine of each node, and start the processes there with the new --cluster.

Keys whose expiry has passed since then expire as soon as the new cluster's log time reaches the present.`,
		Args: cobra.NoArgs,
	}
	command.RunE = work(func(ctx context.Context, _ []string) error {
		a, err := from.open(ctx)
		if err != nil {
			return err
		}
		target := backup.Target{LSN: smr.LSN(toLSN)}
		if toTime != "" {
			if target.Time, err = parseTime(toTime); err != nil {
				return err
			}
		}
		options := asked.WithDefaults()
		if err := options.Check(); err != nil {
			return &misuse{err}
		}
		order := backup.Restore{Target: target, Backup: smr.LSN(chosen), Into: into, Cluster: newCluster}
		for i := range options.Replicas {
			order.Nodes = append(order.Nodes, "n"+strconv.Itoa(i+1))
		}
		if dry.on {
			b, end, err := a.Preview(ctx, order)
			if err != nil {
				return err
			}
			return dry.show(s, restoreSteps(order, b, end))
		}
		shown := s.bytesDone()
		a.Progress = shown.tell
		order.Note = func(line string) {
			shown.end()
			s.note(line)
		}
		order.Extra = func(dir, cluster string) error { return local.Describe(dir, cluster, a.Group, options) }
		result, err := a.Restore(ctx, order)
		shown.end()
		if err != nil {
			return err
		}
		line := struct {
			Dir     string `json:"dir"`
			Cluster string `json:"cluster"`
			Group   string `json:"group"`
			LSN     uint64 `json:"lsn"`
			Time    string `json:"time"`
			Backup  uint64 `json:"backup_lsn"`
			Frames  int    `json:"frames"`
			Keys    int64  `json:"keys"`
		}{into, result.Cluster, a.Group, uint64(result.LSN), stampText(result.Stamp), uint64(result.Backup.LSN), result.Frames, result.Keys}
		return s.show(line, func() {
			s.printf("restored group %s as of LSN %d, %s (backup of LSN %d and %d frames): %d keys\n", line.Group, line.LSN, line.Time, line.Backup, line.Frames, line.Keys)
			s.printf("It is cluster %s now. Start it with:\n  smrctl up --dir %s\n", line.Cluster, into)
		})
	})
	from.addFlags(command)
	dry.add(command)
	flags := command.Flags()
	flags.StringVar(&into, "into", "", "`directory` of the new cluster: not there yet, or empty (required)")
	flags.Uint64Var(&toLSN, "to-lsn", 0, "the last frame that ends at or below this LSN is the last one executed")
	flags.StringVar(&toTime, "to-time", "", "the last frame written at or before this time is the last one executed: as 2026-11-20T18:00:00Z, or '2026-11-20 18:00:00' of this machine's zone")
	flags.Uint64Var(&chosen, "backup", 0, "begin with the backup of this LSN (default: the newest that does not lie behind the target)")
	flags.StringVar(&newCluster, "new-cluster", "", "id of the new cluster (default: a random one)")
	flags.IntVar(&asked.Replicas, "replicas", 3, fmt.Sprintf("replicas of the new cluster, 1 to %d", local.MaxReplicas))
	flags.IntVar(&asked.Confmasters, "confmasters", 3, "configuration masters of the new cluster: 1, 3 or 5")
	flags.IntVar(&asked.Port, "port", 6379, "Redis port of the first KV node of the new cluster")
	command.MarkFlagsMutuallyExclusive("to-lsn", "to-time")
	for _, err := range []error{command.MarkFlagRequired("into"), command.MarkFlagDirname("into")} {
		if err != nil {
			panic(err) // the flag stands above
		}
	}
	return command
}

// restoreSteps says what a restore makes.
func restoreSteps(order backup.Restore, b backup.Backup, end smr.LSN) []string {
	upTo := fmt.Sprintf("to its end at LSN %d", end)
	switch {
	case order.Target.LSN != 0:
		upTo = fmt.Sprintf("up to LSN %d", order.Target.LSN)
	case !order.Target.Time.IsZero():
		upTo = fmt.Sprintf("up to %s, if it reaches that: it ends at LSN %d", order.Target.Time.Format(timeForm), end)
	}
	return []string{
		fmt.Sprintf("fetch the backup of LSN %d, %s, %s", b.LSN, stampText(b.Stamp), size(uint64(b.Bytes))),
		fmt.Sprintf("execute the archived log behind it %s", upTo),
		fmt.Sprintf("make a new cluster of the nodes %s in %s", strings.Join(order.Nodes, ", "), order.Into),
	}
}

// parseTime reads a point in time.
func parseTime(text string) (time.Time, error) {
	if t, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return t, nil
	}
	for _, form := range []string{"2006-01-02 15:04:05.999", "2006-01-02 15:04", "2006-01-02"} {
		if t, err := time.ParseInLocation(form, text, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, usage("--to-time %q: write it as 2026-11-20T18:00:00Z or '2026-11-20 18:00:00'", text)
}
