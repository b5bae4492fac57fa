package ctl

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"lockstep/proto"
)

// eventLine is an event as JSON.
type eventLine struct {
	ID    uint64 `json:"id"`
	Time  string `json:"time"`
	Group string `json:"group"`
	Name  string `json:"name"`
	Node  string `json:"node"`
	Epoch uint64 `json:"epoch"`
	Text  string `json:"text"`
	From  string `json:"from_addr"` // of switch-master
	To    string `json:"to_addr"`
}

func newEvents(s *screen) *cobra.Command {
	var at where
	var group, node string
	var names []string
	var after uint64
	var count int
	command := &cobra.Command{
		Use:   "events",
		Short: "Follow what the configuration masters decide, as it happens",
		Long: `Shows elections, fail-overs, changes of replicas and of settings as they are decided, until Ctrl-C; with -o json one line each. When a
configuration master goes away it carries on with the next, and misses nothing. ` + "`smrctl explain --all`" + ` shows earlier decisions with their
evidence.`,
		Args: cobra.NoArgs,
		RunE: work(func(ctx context.Context, _ []string) error {
			if count < 0 {
				return usage("--count %d is negative", count)
			}
			client, err := at.dialAnswering(ctx)
			if err != nil {
				return err
			}
			defer client.Close()
			ctx, enough := context.WithCancel(ctx)
			defer enough()
			shown := 0
			_ = client.Events(ctx, group, after, func(e *proto.Event) { // it ends with ctx only
				if ctx.Err() != nil || node != "" && e.GetNode() != node || len(names) > 0 && !slices.Contains(names, e.GetName()) {
					return
				}
				line := eventLine{ID: e.GetId(), Time: time.UnixMilli(e.GetTimeMs()).Format(timeForm), Group: e.GetGroup(), Name: e.GetName(), Node: e.GetNode(),
					Epoch: e.GetEpoch(), Text: e.GetText(), From: e.GetFromAddr(), To: e.GetToAddr()}
				s.line(line, line.text(s))
				if shown++; shown == count {
					enough()
				}
			})
			return nil
		}),
	}
	at.addAll(command)
	flags := command.Flags()
	flags.StringVar(&group, "group", "", "only of this `group`")
	flags.StringVar(&node, "node", "", "only about this `node`")
	flags.StringSliceVar(&names, "name", nil, "only events of these `names` (election-begun, chosen, established, switch-master, reconfigure, unavailable, change, settings, …)")
	flags.Uint64Var(&after, "after", 0, "begin behind the event of this `number`, as far as it is kept; 0: with what happens from now on")
	flags.IntVar(&count, "count", 0, "end after so many events; 0: with Ctrl-C")
	return command
}

func (l *eventLine) text(s *screen) string {
	text := fmt.Sprintf("%s  %d  %s  epoch %d  %s", l.Time, l.ID, l.Group, l.Epoch, s.paint(bold, l.Name))
	if l.Node != "" {
		text += "  " + l.Node
	}
	return text + "  " + l.Text
}
