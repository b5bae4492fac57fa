package ctl

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
)

func newWeb(s *screen) *cobra.Command {
	return group("web", "The web page of the configuration masters: where it is, and logging in there", newWebShow(s), newWebLogin(s))
}

// webPage is where one configuration master shows the page.
type webPage struct {
	Confmaster uint64 `json:"confmaster"`
	Page       string `json:"page"` // "" if it shows none
	Leader     bool   `json:"leader"`
	Up         bool   `json:"up"`
}

func newWebShow(s *screen) *cobra.Command {
	var at where
	command := &cobra.Command{
		Use:   "show",
		Short: "Show where the web page is",
		Long: `Every configuration master with --http shows the same page there: topology, history of fail-overs, drills, settings and the log.
Whoever reaches it may look; a change needs a log-in (smrctl web login).`,
		Args: cobra.NoArgs,
		RunE: work(func(ctx context.Context, _ []string) error {
			client, cluster, err := at.dial()
			if err != nil {
				return err
			}
			defer client.Close()
			status, err := client.Status(ctx)
			if err != nil {
				return explainSilence(err, cluster)
			}
			list := []webPage{}
			rows := [][]string{{"CONFMASTER", "PAGE", ""}}
			for _, c := range status.GetConfmasters() {
				list = append(list, webPage{c.GetId(), c.GetPage(), c.GetLeader(), c.GetUp()})
				page, mark := c.GetPage(), ""
				switch {
				case !c.GetUp():
					mark = "down"
				case c.GetLeader():
					mark = "leader"
				}
				if page == "" {
					page = "none: it was started without --http, or with --web=false"
				}
				rows = append(rows, []string{"c" + decimal(c.GetId()), page, mark})
			}
			return s.show(map[string]any{"pages": list}, func() { s.table(rows) })
		}),
	}
	at.addAll(command)
	return command
}

func newWebLogin(s *screen) *cobra.Command {
	var at where
	command := &cobra.Command{
		Use:   "login",
		Short: "Let a browser log in at the web page with the roles of your certificate",
		Long: `Gives a link, and the code in it, with which a browser logs in at the web page of one configuration master: once, within two
minutes. The page may then do what your certificate may, for eight hours at most, or one without use. Keep the link to yourself.
It needs certificates, and configuration masters with --http-tls on or mutual.`,
		Args: cobra.NoArgs,
		RunE: work(func(ctx context.Context, _ []string) error {
			client, cluster, err := at.dial()
			if err != nil {
				return err
			}
			defer client.Close()
			reply, err := client.OpenWeb(ctx)
			if err != nil {
				return fmt.Errorf("log in at the web page: %w", explainSilence(err, cluster))
			}
			good := time.Duration(reply.GetGoodMs()) * time.Millisecond
			result := struct {
				Link string `json:"link"`
				Page string `json:"page"`
				Code string `json:"code"`
				Who  string `json:"who"`
				Good string `json:"good_for"`
			}{reply.GetPage() + "#login=" + reply.GetCode(), reply.GetPage(), reply.GetCode(), reply.GetWho(), good.String()}
			return s.show(result, func() {
				s.printf("%s\n\nLogs in as %s, once, within %v. Or open %s and give the code %s\n", result.Link, result.Who, good, result.Page, result.Code)
			})
		}),
	}
	at.addAll(command)
	return command
}
