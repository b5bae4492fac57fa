package ctl

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"lockstep/internal/admin"
	"lockstep/proto"
	"lockstep/smr"
)

// Ports of a replica that was named by its host alone: the ones that deploy/ uses.
const (
	portRedis  = 6379
	portData   = 7100
	portManage = 7200
)

// newGroupCreate makes the command that founds a group of processes that smrctl did not start.
func newGroupCreate(s *screen) *cobra.Command {
	var at where
	var replicas []string
	var copies, least int
	var sync string
	var timeout time.Duration
	var dry dryRun
	command := &cobra.Command{
		Use:   "create GROUP",
		Short: "Register a group and its replicas; harmless if it is registered so already",
		Long: fmt.Sprintf(`Tells the configuration masters of a group and its replicas, which then elect its first master. It waits until they have a
leader; the replicas need not run yet. Repeating it with the same description changes nothing. Without --replica the group
waits until as many as --copies have joined by themselves (replicators started with --join).

A replica is NODE=HOST, with the ports %d (Redis), %d (log) and %d (management), or NODE=REDIS,LOG,MANAGEMENT with three
addresses HOST:PORT, as the configuration masters and the other replicas reach them.`, portRedis, portData, portManage),
		Example: "  smrctl group create g1 --confmaster 10.0.0.1:7300 --replica n1=10.0.0.1 --replica n2=10.0.0.2 --replica n3=10.0.0.3",
		Args:    cobra.ExactArgs(1),
	}
	at.addAll(command)
	dry.add(command)
	flags := command.Flags()
	flags.StringArrayVar(&replicas, "replica", nil, "one replica: NODE=HOST or NODE=REDIS,LOG,MANAGEMENT; once for each")
	flags.IntVar(&copies, "copies", 0, "replicas that must hold a write, master included (default: more than half)")
	flags.IntVar(&least, "min-copies", 0, "how far copies may be lowered automatically (default: not at all)")
	flags.StringVar(&sync, "sync", smr.SyncAlways.String(), "when a write counts as durable: always, interval or os; the same as at the replicators")
	flags.DurationVar(&timeout, "timeout", time.Minute, "how long to wait for the configuration masters")
	complete(command, "sync", "always", "interval", "os")
	command.RunE = func(command *cobra.Command, args []string) error {
		request := &proto.CreateGroupRequest{Name: args[0], Copies: uint32(copies), MinCopies: uint32(least), Sync: sync}
		var problems []error
		for _, text := range replicas {
			replica, err := parseReplica(text)
			if err == nil && slices.ContainsFunc(request.Replicas, func(r *proto.ReplicaSpec) bool { return r.Node == replica.Node }) {
				err = fmt.Errorf("--replica %s: node %s stands there twice", text, replica.Node)
			}
			problems = append(problems, err)
			request.Replicas = append(request.Replicas, replica)
		}
		given := command.Flags().Changed
		if len(replicas) == 0 && !given("copies") {
			problems = append(problems, errors.New("--replica is missing: name every replica of the group, or --copies if they join by themselves"))
		}
		if !given("copies") {
			request.Copies = uint32(len(replicas)/2 + 1)
		}
		if !given("min-copies") {
			request.MinCopies = request.Copies
		}
		if given("copies") && len(replicas) > 0 && (copies < 1 || copies > len(replicas)) {
			problems = append(problems, fmt.Errorf("--copies %d of %d replicas: use 1 to %d", copies, len(replicas), len(replicas)))
		} else if least < 0 || least > int(request.Copies) || given("min-copies") && least == 0 {
			problems = append(problems, fmt.Errorf("--min-copies %d: use 1 to copies, which is %d", least, request.Copies))
		}
		if _, err := smr.ParseSyncMode(sync); err != nil {
			problems = append(problems, err)
		}
		if timeout <= 0 {
			problems = append(problems, fmt.Errorf("--timeout %v: use more than 0", timeout))
		}
		if err := errors.Join(problems...); err != nil {
			return &misuse{err}
		}
		return work(func(ctx context.Context, _ []string) error {
			if dry.on {
				return dry.show(s, createSteps(request))
			}
			client, cluster, err := at.dial()
			if err != nil {
				return err
			}
			defer client.Close()
			ctx, cancel := context.WithTimeout(ctx, timeout)
			defer cancel()
			reply, err := createGroup(ctx, client, request)
			if err != nil {
				return fmt.Errorf("register group %s: %w", request.GetName(), explainSilence(err, cluster))
			}
			result := struct {
				Group string `json:"group"`
				Text  string `json:"text"`
			}{request.GetName(), reply.GetText()}
			return s.show(result, func() { s.printf("%s\n", result.Text) })
		})(command, args)
	}
	return command
}

func createSteps(request *proto.CreateGroupRequest) []string {
	steps := []string{fmt.Sprintf("register group %s: copies %d, at least %d, sync %s", request.GetName(), request.GetCopies(), request.GetMinCopies(), request.GetSync())}
	for _, r := range request.GetReplicas() {
		steps = append(steps, fmt.Sprintf("with replica %s: Redis %s, log %s, management %s", r.GetNode(), r.GetKvAddr(), r.GetDataAddr(), r.GetManageAddr()))
	}
	return steps
}

// createGroup asks until a configuration master decides, or ctx ends.
func createGroup(ctx context.Context, client *admin.Client, request *proto.CreateGroupRequest) (*proto.ChangeReply, error) {
	ticker := time.NewTicker(200 * time.Millisecond)
	defer ticker.Stop()
	for {
		reply, err := client.CreateGroup(ctx, request)
		if err == nil || !errors.Is(err, admin.ErrNoAnswer) {
			return reply, err
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil, err
		}
	}
}

// parseReplica reads NODE=HOST or NODE=REDIS,LOG,MANAGEMENT.
func parseReplica(text string) (*proto.ReplicaSpec, error) {
	node, place, found := strings.Cut(text, "=")
	if !found {
		return nil, fmt.Errorf("--replica %q: write NODE=HOST or NODE=REDIS,LOG,MANAGEMENT", text)
	}
	if err := smr.CheckNodeID(node); err != nil {
		return nil, fmt.Errorf("--replica %q: %w", text, err)
	}
	addresses := strings.Split(place, ",")
	if len(addresses) == 1 {
		host := strings.Trim(place, "[]")
		if _, _, err := net.SplitHostPort(place); err == nil || host == "" {
			return nil, fmt.Errorf("--replica %q: give the host alone, or all three addresses", text)
		}
		addresses = nil
		for _, port := range []int{portRedis, portData, portManage} {
			addresses = append(addresses, net.JoinHostPort(host, strconv.Itoa(port)))
		}
	}
	if len(addresses) != 3 {
		return nil, fmt.Errorf("--replica %q: %d addresses: give three, of Redis, log and management", text, len(addresses))
	}
	for _, address := range addresses {
		if host, port, err := net.SplitHostPort(address); err != nil || host == "" || port == "" || port == "0" {
			return nil, fmt.Errorf("--replica %q: %q is no address HOST:PORT", text, address)
		}
	}
	return &proto.ReplicaSpec{Node: node, KvAddr: addresses[0], DataAddr: addresses[1], ManageAddr: addresses[2]}, nil
}
