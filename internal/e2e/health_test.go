package e2e

import (
	"context"
	"fmt"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"lockstep/internal/local"
	"lockstep/internal/trust"
)

// What could go wrong: a process with a management port does not answer grpc.health.v1 there, or not under the name of its service, or says that what it
// has not is well; a stranger without a certificate is answered.
func TestHealthOfEveryProcess(t *testing.T) {
	t.Run("without certificates", func(t *testing.T) {
		w := start(t, local.Options{Replicas: 1, Confmasters: 1}, nil)
		w.checkHealth(t, insecure.NewCredentials(), codes.OK)
	})
	t.Run("with certificates", func(t *testing.T) {
		w := start(t, local.Options{Replicas: 1, Confmasters: 1, TLS: true}, nil)
		login, err := w.Login()
		if err != nil {
			t.Fatal(err)
		}
		w.checkHealth(t, login.Keeper.Credentials(trust.Wanted{}), codes.OK)
		w.checkHealth(t, insecure.NewCredentials(), codes.Unavailable)
	})
}

// checkHealth asks every management port; want is the code of the answer, OK for SERVING.
func (w *world) checkHealth(t *testing.T, how credentials.TransportCredentials, want codes.Code) {
	t.Helper()
	ports := map[string]string{}
	for _, r := range w.Plan.Replicas {
		ports[r.ManageAddr], ports[r.AdminAddr()] = "lockstep.v1.Replicator", "lockstep.v1.KVNode"
	}
	for _, addr := range w.Plan.ConfmasterAddrs() {
		ports[addr] = "lockstep.v1.Confmaster"
	}
	if len(ports) != 3 {
		t.Fatalf("%d management ports", len(ports))
	}
	for addr, service := range ports {
		conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(how))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		ask := func(service string) (*healthpb.HealthCheckResponse, error) {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			return healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{Service: service})
		}
		for _, name := range []string{"", service} {
			eventually(t, service+" answers", func() error {
				reply, err := ask(name)
				if status.Code(err) != want || want == codes.OK && reply.GetStatus() != healthpb.HealthCheckResponse_SERVING {
					return fmt.Errorf("%q at %s: %v, %v", name, addr, reply, err)
				}
				return nil
			})
		}
		if _, err := ask("lockstep.v1.Nothing"); want == codes.OK && status.Code(err) != codes.NotFound {
			t.Errorf("%s: a service that is not there: %v", service, err)
		}
	}
}
