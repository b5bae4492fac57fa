package ctl

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"lockstep/internal/drill/plan"
	"lockstep/internal/trust"
)

const (
	defaultCADir = "tls"
	// day is a day as certificates count it.
	day = 24 * time.Hour
	// maxDays bounds the life of a certificate.
	maxDays = 20 * 365
)

func newCert(s *screen) *cobra.Command {
	return group("cert", "Make a CA and certificates for a cluster, and look at them",
		newCertCA(s), newCertNode(s), newCertClient(s), newCertShow(s))
}

// certMade is the JSON of a certificate that was made.
type certMade struct {
	Cert string `json:"cert"`
	Key  string `json:"key"`
	Ends string `json:"ends"`
	Done bool   `json:"done"` // false: a dry run
}

// certFlags are the flags of commands that make something.
type certFlags struct {
	dir, into string
	days      int
	dryRun    bool
}

func (c *certFlags) add(command *cobra.Command, days int) {
	flags := command.Flags()
	flags.StringVar(&c.dir, "ca-dir", defaultCADir, "`directory` of the CA")
	flags.IntVar(&c.days, "days", days, "how long it is good")
	flags.BoolVar(&c.dryRun, "dry-run", false, "say what would be made, and make nothing")
}

func (c *certFlags) life() (time.Duration, error) {
	if c.days < 1 || c.days > maxDays {
		return 0, usage("--days %d: use 1 to %d", c.days, maxDays)
	}
	return time.Duration(c.days) * day, nil
}

func (s *screen) showMade(made certMade) error {
	return s.show(made, func() {
		verb := "made"
		if !made.Done {
			verb = "would be made:"
		}
		s.printf("%s %s, with the key %s, good until %s\n", verb, made.Cert, made.Key, made.Ends)
	})
}

func newCertCA(s *screen) *cobra.Command {
	var c certFlags
	command := &cobra.Command{
		Use:   "ca CLUSTER",
		Short: "Make the CA of a cluster: whoever has its key can make himself an admin",
		Long: `Makes a key and a certificate that signs those of one cluster. CLUSTER is the id that every process is started with (--cluster). Keep the
key away from the machines of the cluster: nothing there needs it.`,
		Example: "  smrctl cert ca prod --ca-dir ~/lockstep-ca",
		Args:    cobra.ExactArgs(1),
		RunE: work(func(_ context.Context, args []string) error {
			life, err := c.life()
			if err != nil {
				return err
			}
			path := filepath.Join(c.dir, trust.CAFile)
			if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("%s is there already: a second CA would be trusted by nobody; choose another --ca-dir", path)
			}
			made := certMade{Cert: path, Key: filepath.Join(c.dir, trust.CAKeyFile), Ends: time.Now().Add(life).UTC().Format(time.DateOnly), Done: !c.dryRun}
			if !c.dryRun {
				if err := trust.MakeCA(c.dir, args[0], life); err != nil {
					return err
				}
			}
			return s.showMade(made)
		}),
	}
	c.add(command, 10*365)
	return command
}

// issue makes a certificate and shows where it is.
func (c *certFlags) issue(s *screen, r trust.Request) error {
	life, err := c.life()
	if err != nil {
		return err
	}
	r.Life = life
	into := c.into
	if into == "" {
		into = c.dir
	}
	for _, role := range r.Roles {
		if err := (trust.Identity{Cluster: "x", Role: role, Name: r.Name}).Check(); err != nil {
			return &misuse{err}
		}
	}
	made := certMade{Cert: filepath.Join(into, r.Name+".crt"), Key: filepath.Join(into, r.Name+".key"), Ends: time.Now().Add(life).UTC().Format(time.DateOnly), Done: !c.dryRun}
	if !c.dryRun {
		if _, err := trust.Issue(c.dir, into, r.Name, r); err != nil {
			return err
		}
	}
	return s.showMade(made)
}

func newCertNode(s *screen) *cobra.Command {
	var c certFlags
	var roles, hosts []string
	command := &cobra.Command{
		Use:   "node NAME",
		Short: "Make the certificate of a process, or of replicator and KV node of one node",
		Long: `NAME is what the process is started with as --node; configuration master 1 is called c1. The certificate says which cluster, role and
name it is for, and is refused for any other. Names and addresses of --host are for Redis clients, which check them. A certificate that
is there is replaced; a process that uses it takes the new one without a restart.`,
		Example: "  smrctl cert node n1 --host n1.example --host 10.0.0.1\n  smrctl cert node c1 --role confmaster --host 10.0.0.1",
		Args:    cobra.ExactArgs(1),
		RunE: work(func(_ context.Context, args []string) error {
			r := trust.Request{Name: args[0], Hosts: hosts}
			for _, role := range roles {
				switch trust.Role(role) {
				case trust.Replicator, trust.KVNode, trust.Confmaster:
					r.Roles = append(r.Roles, trust.Role(role))
				default:
					return usage("--role %q%s: use replicator, kvnode or confmaster", role, didYouMean(role, []string{"replicator", "kvnode", "confmaster"}))
				}
			}
			return c.issue(s, r)
		}),
	}
	c.add(command, 365)
	command.Flags().StringVar(&c.into, "out", "", "`directory` for the certificate (default: that of the CA)")
	command.Flags().StringSliceVar(&roles, "role", []string{"replicator", "kvnode"}, "what it is for: replicator, kvnode, confmaster")
	command.Flags().StringSliceVar(&hosts, "host", nil, "names and addresses at which Redis clients find it")
	complete(command, "role", "replicator", "kvnode", "confmaster")
	return command
}

func newCertClient(s *screen) *cobra.Command {
	var c certFlags
	var role string
	command := &cobra.Command{
		Use:   "client NAME",
		Short: "Make the certificate of a person, a tool, or a Redis client",
		Long: `A viewer may look; an operator may also switch over, change replicas and settings, and read images; an admin may also create groups, make
users and force a recovery. Without --role it is for Redis clients only, and opens no management port.`,
		Example: "  smrctl cert client alice --role operator\n  smrctl cert client app",
		Args:    cobra.ExactArgs(1),
		RunE: work(func(_ context.Context, args []string) error {
			r := trust.Request{Name: args[0]}
			switch trust.Role(role) {
			case "":
			case trust.Viewer, trust.Operator, trust.Admin:
				r.Roles = []trust.Role{trust.Role(role)}
			default:
				return usage("--role %q%s: use viewer, operator or admin", role, didYouMean(role, []string{"viewer", "operator", "admin"}))
			}
			return c.issue(s, r)
		}),
	}
	c.add(command, 365)
	command.Flags().StringVar(&c.into, "out", "", "`directory` for the certificate (default: that of the CA)")
	command.Flags().StringVar(&role, "role", "", "viewer, operator or admin (default: a Redis client)")
	complete(command, "role", "viewer", "operator", "admin")
	return command
}

// certLine is what is shown of a certificate.
type certLine struct {
	File       string   `json:"file"`
	Subject    string   `json:"subject"`
	CA         bool     `json:"ca"`
	Identities []string `json:"identities"`
	Hosts      []string `json:"hosts"`
	From       string   `json:"from"`
	Ends       string   `json:"ends"`
	Days       int      `json:"days_left"`
}

func newCertShow(s *screen) *cobra.Command {
	return &cobra.Command{
		Use:     "show FILE…",
		Short:   "Show who a certificate is for, and until when it is good",
		Example: "  smrctl cert show tls/*.crt",
		Args:    cobra.MinimumNArgs(1),
		RunE: work(func(_ context.Context, args []string) error {
			lines := []certLine{}
			for _, path := range args {
				papers, err := trust.Read(path)
				if err != nil {
					return err
				}
				for _, p := range papers {
					line := certLine{File: path, Subject: p.Subject, CA: p.CA, Identities: []string{}, Hosts: append([]string{}, p.Hosts...),
						From: p.From.UTC().Format(time.RFC3339), Ends: p.To.UTC().Format(time.RFC3339), Days: int(time.Until(p.To) / day)}
					for _, id := range p.Identities {
						line.Identities = append(line.Identities, id.String())
					}
					lines = append(lines, line)
				}
			}
			return s.show(map[string]any{"certificates": lines}, func() {
				rows := [][]string{{"FILE", "FOR", "HOSTS", "ENDS", "DAYS LEFT"}}
				for _, l := range lines {
					who := strings.Join(l.Identities, " ")
					switch {
					case l.CA:
						who = "CA: " + l.Subject
					case who == "":
						who = "Redis client " + l.Subject
					}
					rows = append(rows, []string{l.File, who, strings.Join(l.Hosts, " "), l.Ends, fmt.Sprint(l.Days)})
				}
				s.table(rows)
			})
		}),
	}
}

// checkCertificates looks when the own certificate ends, those that processes show, and those in the directory of a cluster on this machine.
func (d *doctor) checkCertificates(ctx context.Context) {
	keeper := d.client.Login.Keeper
	if keeper == nil {
		d.say(diagnosis{severityNote, "certificates", "cluster", "inner connections have no TLS", "whoever reaches an inner port reads and changes everything",
			"keep the ports in a private network, or give every process a certificate: `smrctl cert`"})
		return
	}
	d.certificate("own certificate", keeper.Ends())
	d.shownCertificates(ctx, keeper)
	if d.cluster == nil {
		return
	}
	files, err := filepath.Glob(filepath.Join(d.cluster.TLSDir(), "*.crt"))
	if err != nil {
		return
	}
	for _, path := range files {
		papers, err := trust.Read(path)
		if err != nil {
			d.say(diagnosis{severityError, "certificates", path, err.Error(), "who uses it cannot start", "make a new one: `smrctl cert node`"})
			continue
		}
		for _, p := range papers {
			d.certificate(filepath.Base(path), p.To)
		}
	}
}

// shownCertificates connects to every inner port and looks at what is shown there: that is in use, whatever files say.
func (d *doctor) shownCertificates(ctx context.Context, keeper *trust.Keeper) {
	type port struct {
		subject, addr string
		wanted        trust.Wanted
	}
	var ports []port
	for _, c := range d.status.GetConfmasters() {
		name := plan.Confmaster(c.GetId())
		ports = append(ports, port{"configuration master " + name, c.GetAddr(), trust.Wanted{Role: trust.Confmaster, Name: name}})
	}
	for _, g := range d.status.GetGroups() {
		for _, r := range g.GetReplicas() {
			ports = append(ports, port{"replicator of " + r.GetNode(), r.GetManageAddr(), trust.Wanted{Role: trust.Replicator, Name: r.GetNode()}})
			if addr := r.GetState().GetKvAdminAddr(); r.GetUp() && addr != "" {
				ports = append(ports, port{"KV node of " + r.GetNode(), addr, trust.Wanted{Role: trust.KVNode, Name: r.GetNode()}})
			}
		}
	}
	askAll(ports, func(_ int, p port) {
		ctx, cancel := context.WithTimeout(ctx, nodePatience)
		defer cancel()
		conn, err := keeper.Dial(ctx, &net.Dialer{}, p.addr, p.wanted)
		if err != nil {
			if trust.IsTrust(err) { // what is not up is found elsewhere
				d.say(diagnosis{severityError, "certificates", p.subject, err.Error(), "nobody of this cluster talks to it", "make a new one with `smrctl cert node` and put it in place: no restart is needed"})
			}
			return
		}
		defer conn.Close()
		if secured, ok := conn.(*trust.Conn); ok {
			d.certificate(p.subject, secured.ConnectionState().PeerCertificates[0].NotAfter)
		}
	})
	d.sort("certificates")
}

// certificate says of one until when it is good.
func (d *doctor) certificate(subject string, end time.Time) {
	left := time.Until(end)
	until := end.UTC().Format(time.DateOnly)
	switch {
	case left <= 0:
		d.say(diagnosis{severityError, "certificates", subject, "ended on " + until, "everybody refuses it", "make a new one with `smrctl cert` and put it in place: no restart is needed"})
	case left < trust.SoonExpired:
		d.say(diagnosis{severityWarning, "certificates", subject, "ends on " + until, "from then on everybody refuses it", "make a new one with `smrctl cert` and put it in place: no restart is needed"})
	default:
		d.fine("certificates", subject, "good until %s", until)
	}
}
