package ctl

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"lockstep/internal/bytesize"
	"lockstep/internal/trust"
	"lockstep/proto"
	"lockstep/smr"
)

// logComparison is the JSON of `log compare`.
type logComparison struct {
	From  uint64        `json:"from_lsn"`
	End   uint64        `json:"end_lsn"`
	Equal bool          `json:"equal"`
	Sides []comparedLog `json:"logs"`
	// First is where the first difference is, null if there is none.
	First *firstDifference `json:"first_difference"`
}

// comparedLog is one of the logs: a directory, or a node.
type comparedLog struct {
	Name   string `json:"name"`
	Start  uint64 `json:"start_lsn"`
	End    uint64 `json:"end_lsn"`    // of a node: of what is committed and durable there
	Commit uint64 `json:"commit_lsn"` // highest that is known
	SHA256 string `json:"sha256"`     // of the common range
}

type firstDifference struct {
	LSN       uint64   `json:"lsn"`
	Between   []string `json:"between"`
	Committed bool     `json:"committed"` // a promise is broken; otherwise an election has yet to decide which of them stays
	Frames    []string `json:"frames"`    // of directories: the frame there in each, as dump shows it
}

func newLogCompare(s *screen) *cobra.Command {
	var at where
	var name, last string
	command := &cobra.Command{
		Use:   "compare [PATH PATH]",
		Short: "Compare what replicas hold, byte by byte, and show the first difference",
		Long: `Without paths: the living replicas of a group, by digests of what is committed; nothing but digests travels. With two paths: two logs on
this machine, whether their replicators run or not, up to the end of the shorter one.
Exit code 3 if there is a difference.
` + logPath,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 0 && len(args) != 2 {
				return fmt.Errorf("%d paths: give two, or none for the replicas of a group", len(args))
			}
			return nil
		},
		RunE: work(func(ctx context.Context, args []string) error {
			var result *logComparison
			var err error
			if len(args) == 2 {
				result, err = compareDirectories(ctx, args[0], args[1])
			} else {
				most, problem := bytesize.Parse(last, bytesize.Max)
				if problem != nil {
					return usage("--last: %v", problem)
				}
				result, err = compareReplicas(ctx, s, &at, givenGroup(name), uint64(most))
			}
			if err != nil {
				return err
			}
			if err := s.show(result, func() { showCompared(s, result) }); err != nil || result.Equal {
				return err
			}
			return found("the logs differ at LSN %d", result.First.LSN)
		}),
	}
	at.addAll(command)
	ofGroup(command, &name)
	command.Flags().StringVar(&last, "last", "64MiB", "of replicas: compare so many `bytes` before the end, or with KiB, MiB, GiB; 0 for all that everybody has")
	return command
}

func showCompared(s *screen, c *logComparison) {
	rows := [][]string{{"LOG", "START", "END", "COMMIT", "SHA256 OF THE COMMON RANGE"}}
	for _, side := range c.Sides {
		rows = append(rows, []string{side.Name, decimal(side.Start), decimal(side.End), decimal(side.Commit), side.SHA256})
	}
	s.table(rows)
	if c.Equal {
		s.printf("%s: %d bytes from %d to %d\n", s.paint(green, "equal"), c.End-c.From, c.From, c.End)
		return
	}
	d := c.First
	meaning := "committed: a promise is broken, keep the evidence"
	if !d.Committed {
		meaning = "not known to be committed: the next election cuts one of them"
	}
	s.printf("%s at LSN %d between %s and %s (%s)\n", s.paint(red, "different"), d.LSN, d.Between[0], d.Between[1], meaning)
	for _, frame := range d.Frames {
		s.printf("  %s\n", frame)
	}
}

// compareDirectories compares two logs on this machine.
func compareDirectories(ctx context.Context, first, second string) (*logComparison, error) {
	result := &logComparison{Equal: true}
	var walks []*walk
	for _, path := range []string{first, second} {
		w, err := openWalk(path)
		if err != nil {
			return nil, err
		}
		defer w.reader.Close()
		side := comparedLog{Name: path, Start: uint64(w.files[0].FirstFrame)}
		end, err := w.walk(ctx, func(f smr.Frame) error {
			side.Commit = max(side.Commit, uint64(f.Commit))
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		side.End = uint64(end)
		result.Sides = append(result.Sides, side)
		walks = append(walks, w)
	}
	result.From, result.End = max(result.Sides[0].Start, result.Sides[1].Start), min(result.Sides[0].End, result.Sides[1].End)
	if result.From >= result.End {
		return nil, fmt.Errorf("the logs have nothing in common: %s holds %d to %d, %s holds %d to %d", first, result.Sides[0].Start, result.Sides[0].End,
			second, result.Sides[1].Start, result.Sides[1].End)
	}
	lsn, err := result.compareBytes(ctx, walks)
	if err != nil || lsn == result.End {
		return result, err
	}
	result.Equal = false
	result.First = &firstDifference{LSN: lsn, Between: []string{first, second}, Committed: lsn < max(result.Sides[0].Commit, result.Sides[1].Commit), Frames: []string{}}
	for _, w := range walks {
		result.First.Frames = append(result.First.Frames, w.frameAt(ctx, smr.LSN(lsn)))
	}
	return result, nil
}

// compareBytes reads the common range of both and returns where they differ first, or its end. It notes the digests.
func (c *logComparison) compareBytes(ctx context.Context, walks []*walk) (uint64, error) {
	const chunk = 1 << 20
	buffers := [2][]byte{make([]byte, chunk), make([]byte, chunk)}
	first := c.End
	hashes := [2]io.Writer{}
	sums := [2]func() string{}
	for i := range 2 {
		hash := sha256.New()
		hashes[i], sums[i] = hash, func() string { return fmt.Sprintf("%x", hash.Sum(nil)) }
	}
	for at := c.From; at < c.End; {
		if err := ctx.Err(); err != nil {
			return at, err
		}
		size := min(chunk, c.End-at)
		for i, w := range walks {
			for done := uint64(0); done < size; {
				n, err := w.reader.ReadAt(buffers[i][done:size], smr.LSN(at+done), smr.LSN(at+size))
				if err != nil {
					return at, fmt.Errorf("%s: %w", w.dir, err)
				}
				done += uint64(n)
			}
			_, _ = hashes[i].Write(buffers[i][:size])
		}
		if first == c.End && !bytes.Equal(buffers[0][:size], buffers[1][:size]) {
			for i := range size {
				if buffers[0][i] != buffers[1][i] {
					first = at + i
					break
				}
			}
		}
		at += size
	}
	c.Sides[0].SHA256, c.Sides[1].SHA256 = sums[0](), sums[1]()
	return first, nil
}

// frameAt shows the frame that holds the byte.
func (w *walk) frameAt(ctx context.Context, lsn smr.LSN) string {
	text := fmt.Sprintf("%s: no frame that checks", w.dir)
	_, err := w.walk(ctx, func(f smr.Frame) error {
		if f.End() <= lsn {
			return nil
		}
		line := frameLine{LSN: uint64(f.LSN), Size: f.Size(), Epoch: uint64(f.Epoch), Commit: uint64(f.Commit), Time: time.UnixMilli(f.Stamp).UTC().Format(timeForm),
			Kind: f.Kind.String(), Count: f.Count}
		text = w.dir + ": " + frameText(line)
		return errEnough
	})
	if err != nil && !errors.Is(err, errEnough) {
		text = fmt.Sprintf("%s: %v", w.dir, err)
	}
	return text
}

// digester is a replica that answers digests of its log.
type digester struct {
	comparedLog
	group, cluster string
	conn           *grpc.ClientConn
}

const (
	// digestStep is the range of a first digest, in bytes, and digestNarrow by how much a range that differs is divided.
	digestStep   = 1 << 20
	digestNarrow = 64
	// digestTime bounds one call, which reads the log on the other machine.
	digestTime = 5 * time.Minute
)

// digests returns the digests of a range, each of step bytes.
func (d *digester) digests(ctx context.Context, from, end, step uint64) ([]*proto.RangeDigest, error) {
	ctx, cancel := context.WithTimeout(ctx, digestTime)
	defer cancel()
	stream, err := proto.NewReplicatorClient(d.conn).Digests(ctx, &proto.DigestsRequest{
		Target: &proto.Target{Cluster: d.cluster, Group: d.group, Node: d.Name}, From: from, End: end, Step: uint32(step),
	})
	var list []*proto.RangeDigest
	for err == nil {
		var r *proto.RangeDigest
		if r, err = stream.Recv(); err == nil {
			list = append(list, r)
		}
	}
	if !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("replica %s: %s", d.Name, status.Convert(err).Message())
	}
	return list, nil
}

// compareReplicas compares the living replicas of a group.
func compareReplicas(ctx context.Context, s *screen, at *where, args []string, most uint64) (*logComparison, error) {
	client, cluster, name, err := at.dialGroup(ctx, args)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	group, err := client.Group(ctx, name)
	if err != nil {
		return nil, explainSilence(err, cluster)
	}
	var sides []*digester
	for _, r := range group.GetReplicas() {
		state := r.GetState()
		if !r.GetUp() {
			s.note(fmt.Sprintf("%s is down and left out", r.GetNode()))
			continue
		}
		conn, err := nodeConn(client.Login, r.GetManageAddr(), trust.Replicator, r.GetNode())
		if err != nil {
			return nil, fmt.Errorf("replica %s at %s: %w", r.GetNode(), r.GetManageAddr(), err)
		}
		defer conn.Close()
		sides = append(sides, &digester{comparedLog{Name: r.GetNode(), Start: state.GetStart(), End: min(state.GetCommit(), state.GetDurable()), Commit: state.GetCommit()},
			name, state.GetCluster(), conn})
	}
	if len(sides) < 2 {
		return nil, fmt.Errorf("group %s: %d replicas are up: two are needed for a comparison", name, len(sides))
	}
	return compareDigests(ctx, sides, most)
}

func compareDigests(ctx context.Context, sides []*digester, most uint64) (*logComparison, error) {
	result := &logComparison{Equal: true, End: sides[0].End}
	for _, side := range sides {
		result.From, result.End = max(result.From, side.Start), min(result.End, side.End)
	}
	if most > 0 && result.End > most {
		result.From = max(result.From, result.End-most)
	}
	if result.From >= result.End {
		return nil, fmt.Errorf("the logs have no committed bytes in common: the longest begins at %d, the shortest ends at %d", result.From, result.End)
	}
	step := max(digestStep, (result.End-result.From)/4096)
	var lists [][]*proto.RangeDigest
	for _, side := range sides {
		list, err := side.digests(ctx, result.From, result.End, step)
		if err != nil {
			return nil, err
		}
		hash := sha256.New()
		for _, r := range list {
			hash.Write(r.GetSha256())
		}
		side.SHA256 = fmt.Sprintf("%x", hash.Sum(nil))
		result.Sides = append(result.Sides, side.comparedLog)
		lists = append(lists, list)
	}
	for i := 1; i < len(sides); i++ {
		from, end, differ := firstUnlike(lists[0], lists[i])
		if !differ || result.First != nil && from >= result.First.LSN {
			continue
		}
		lsn, err := narrow(ctx, sides[0], sides[i], from, end)
		if err != nil {
			return nil, err
		}
		if result.First == nil || lsn < result.First.LSN {
			result.Equal, result.First = false, &firstDifference{LSN: lsn, Between: []string{sides[0].Name, sides[i].Name}, Committed: true, Frames: []string{}}
		}
	}
	return result, nil
}

// firstUnlike returns the first range whose digests differ.
func firstUnlike(a, b []*proto.RangeDigest) (from, end uint64, differ bool) {
	for i := range min(len(a), len(b)) {
		if !bytes.Equal(a[i].GetSha256(), b[i].GetSha256()) {
			return a[i].GetFrom(), a[i].GetEnd(), true
		}
	}
	return 0, 0, false
}

// narrow finds the first byte in which two replicas differ, in a range in which they do.
func narrow(ctx context.Context, a, b *digester, from, end uint64) (uint64, error) {
	for end-from > 1 {
		step := max(1, (end-from)/digestNarrow)
		x, err := a.digests(ctx, from, end, step)
		if err != nil {
			return 0, err
		}
		y, err := b.digests(ctx, from, end, step)
		if err != nil {
			return 0, err
		}
		var differ bool
		if from, end, differ = firstUnlike(x, y); !differ {
			return 0, errors.New("the replicas differed, and do not when they are asked again")
		}
	}
	return from, nil
}
