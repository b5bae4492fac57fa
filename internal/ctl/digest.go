package ctl

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"lockstep/proto"
)

// digestLine is a node's digest.
type digestLine struct {
	Node   string `json:"node"`
	LSN    uint64 `json:"lsn"`
	Digest string `json:"digest"` // "" if it did not answer
	Keys   uint64 `json:"keys"`
	Error  string `json:"error"`
}

const (
	// digestWait bounds one try to have all nodes stop at a point of the log: an idle stream moves once a second, and a digest takes
	// time in proportion to the state.
	digestWait  = 10 * time.Minute
	digestTries = 9
	// digestAhead is how far ahead the second try is, in bytes: one or two frames of an idle stream. A point that it comes to in more
	// than some seconds only is one at which nodes give up. Each further try is eight times as far ahead.
	digestAhead = 64
)

func newDigest(s *screen) *cobra.Command {
	var at where
	command := &cobra.Command{
		Use:   "digest [GROUP]",
		Short: "Prove that all KV nodes hold the same state: their digests at one LSN",
		Long: `Asks every KV node for the digest of its whole state at the same point of the log, and compares them. A node executes nothing while it
computes; with much data ask when that does not hurt. Exit code 3 if they differ.`,
		Args: cobra.MaximumNArgs(1),
		RunE: work(func(ctx context.Context, args []string) error {
			client, cluster, name, err := at.dialGroup(ctx, args)
			if err != nil {
				return err
			}
			defer client.Close()
			group, err := client.Group(ctx, name)
			if err != nil {
				return explainSilence(err, cluster)
			}
			lines, err := digestsOf(ctx, name, membersOf(group, client.Login))
			if err != nil {
				return err
			}
			return showDigests(s, name, lines)
		}),
	}
	at.addAll(command)
	return command
}

// digestsOf has the nodes stop at one point. Under load they may be past it when they are asked: then it is tried further on.
func digestsOf(ctx context.Context, group string, members []kvMember) ([]digestLine, error) {
	distance := uint64(1)
	for try := 1; ; try++ {
		applied := make([]uint64, len(members))
		askAll(members, func(i int, m kvMember) {
			_ = askNode(ctx, group, m, nodePatience, func(ctx context.Context, node proto.KVNodeClient, target *proto.Target) error { // who is silent is told below
				state, err := node.State(ctx, &proto.KVStateRequest{Target: target})
				applied[i] = state.GetApplied()
				return err
			})
		})
		var point uint64
		for _, lsn := range applied {
			point = max(point, lsn)
		}
		lines, past := digestsAt(ctx, group, members, point+distance)
		if !past {
			return lines, nil
		}
		if try == digestTries {
			return nil, errors.New("the nodes execute faster than they can be asked: try again with fewer writes")
		}
		distance = max(digestAhead, distance*8)
	}
}

func digestsAt(ctx context.Context, group string, members []kvMember, point uint64) (lines []digestLine, past bool) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	lines = make([]digestLine, len(members))
	var mu sync.Mutex
	askAll(members, func(i int, m kvMember) {
		line := digestLine{Node: m.node}
		err := askNode(ctx, group, m, digestWait, func(ctx context.Context, node proto.KVNodeClient, target *proto.Target) error {
			reply, err := node.Digest(ctx, &proto.DigestRequest{Target: target, At: point})
			line.LSN, line.Digest, line.Keys = reply.GetLsn(), fmt.Sprintf("%x", reply.GetDigest()), reply.GetKeys()
			return err
		})
		var refused *nodeError
		if err != nil {
			line.Error = err.Error()
		}
		if errors.As(err, &refused) && status.Code(refused.err) == codes.OutOfRange {
			mu.Lock()
			past = true
			mu.Unlock()
			cancel() // the others need not go on
		}
		lines[i] = line
	})
	return lines, past
}

// askAll calls for every node at once.
func askAll[T any](members []T, ask func(i int, m T)) {
	var asking sync.WaitGroup
	for i, m := range members {
		asking.Go(func() { ask(i, m) })
	}
	asking.Wait()
}

func showDigests(s *screen, group string, lines []digestLine) error {
	answered, equal := 0, true
	var first *digestLine
	for i := range lines {
		if lines[i].Digest == "" {
			continue
		}
		answered++
		if first == nil {
			first = &lines[i]
		}
		equal = equal && lines[i].Digest == first.Digest && lines[i].LSN == first.LSN
	}
	verdict := "equal"
	switch {
	case answered < 2:
		verdict = "not known"
	case !equal:
		verdict = "different"
	}
	err := s.show(map[string]any{"group": group, "verdict": verdict, "nodes": lines}, func() {
		rows := [][]string{{"NODE", "LSN", "KEYS", "DIGEST"}}
		for _, l := range lines {
			text := l.Digest
			if text == "" {
				text = l.Error
			}
			rows = append(rows, []string{l.Node, decimal(l.LSN), decimal(l.Keys), text})
		}
		s.table(rows)
		s.printf("group %s: %s\n", group, s.paint(map[string]string{"equal": green, "different": red}[verdict], verdict))
	})
	switch {
	case err != nil:
		return err
	case verdict == "different":
		return found("group %s: the nodes hold different states", group)
	case verdict == "not known":
		return fmt.Errorf("group %s: %d nodes answered: two are needed for a comparison", group, answered)
	}
	return nil
}
