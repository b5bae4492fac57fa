package ctl

import (
	"context"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// auditMark begins the entries of the work log that say who changed what.
const auditMark = "audit: "

// auditStamp ends the entries, so that no two are alike. The time stands before them anyway.
var auditStamp = regexp.MustCompile(` \([-0-9]+T[.:0-9]+Z\)$`)

// auditLine is a change on record.
type auditLine struct {
	Time  string `json:"time"`
	Group string `json:"group"`
	Epoch uint64 `json:"epoch"`
	Text  string `json:"text"`
}

func newAudit(s *screen) *cobra.Command {
	var at where
	command := &cobra.Command{
		Use:   "audit [GROUP]",
		Short: "Show who changed what, from where",
		Long: `Shows the changes that operators made to a group, the oldest first: who (as the certificate says; "anybody" where there is no TLS), from
where, what, and when. The configuration masters keep them with their decisions, the newest 1000 of both. What was refused stands in the
log of the configuration master that refused it (msg="call refused", msg=audit). ` + "`smrctl events --name audit`" + ` follows them.`,
		Args: cobra.MaximumNArgs(1),
		RunE: work(func(ctx context.Context, args []string) error {
			client, cluster, name, err := at.dialGroup(ctx, args)
			if err != nil {
				return err
			}
			defer client.Close()
			entries, err := client.WorkLog(ctx, name, workLogLimit)
			if err != nil {
				return explainSilence(err, cluster)
			}
			lines := []auditLine{}
			for _, e := range entries {
				if text, found := strings.CutPrefix(e.GetReason(), auditMark); found && e.GetKind() == "note" {
					text = auditStamp.ReplaceAllString(text, "")
					lines = append(lines, auditLine{time.UnixMilli(e.GetTimeMs()).Format(timeForm), e.GetGroup(), e.GetEpoch(), text})
				}
			}
			return s.show(map[string]any{"group": name, "changes": lines}, func() {
				if len(lines) == 0 {
					s.printf("Nobody has changed anything of group %s.\n", name)
				}
				for _, l := range lines {
					s.printf("%s  epoch %d  %s\n", l.Time, l.Epoch, l.Text)
				}
			})
		}),
	}
	at.addAll(command)
	return command
}
