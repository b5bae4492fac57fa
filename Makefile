# Lockstep. `make up` starts a cluster, `make test` runs the tests; both need Go, git and make only.

GO ?= go
# No C: a fresh machine need not have a compiler, and what pebble caches is Go's memory, which the bound of --tier-memory counts.
export CGO_ENABLED ?= 0
# Without gRPC's traces: their page is a template, and with templates the linker keeps every exported method, 4 to 6 MB a program.
export GOFLAGS := $(GOFLAGS) -tags=grpcnotrace
FUZZTIME ?= 10s
MIN ?= 5
BIN := bin
SMOKE := --smoke --rounds 3 --time 500ms --kills 3
BASELINE := internal/bench/testdata/baseline.json
COMPARE := --systems lockstep-always,lockstep-os,redis3-always,redis3-no --connections 1,10,50,200,1000
LOADS := --systems lockstep-always,lockstep-os,redis3-always,redis3-no --loads get,mix,incr,lpush,hset,zadd,mset,lrange

.DEFAULT_GOAL := help
.PHONY: release deploy-test docs help build up down test bench bench-smoke bench-baseline bench-compare bench-record drill chaos sim sim-long proto ci fuzz-short clean explore mutants mutants-quick oracle

help: ## Show what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## Build the four commands into bin/
	@mkdir -p $(BIN)
	$(GO) build -o $(BIN)/ ./cmd/...

up: build ## Start a cluster on this machine and show its events; Ctrl-C stops it
	@exec $(BIN)/smrctl up $(UPFLAGS)

down: build ## Stop the cluster that runs in the background
	@$(BIN)/smrctl down

test: ## Run all tests (two to four minutes on two cores)
	$(GO) test -timeout 15m ./...

bench: build ## Measure all figures that are to be reached, beside redis-server if that is installed (about twelve minutes; BENCHFLAGS="--rows set*" for less)
	@$(BIN)/smrctl bench figures --out var/bench-figures $(BENCHFLAGS)

bench-smoke: build ## The figures that are quick to measure, and what moved against the baseline (under two minutes; it informs and never fails for a figure)
	@$(BIN)/smrctl bench figures $(SMOKE) --baseline $(BASELINE) $(BENCHFLAGS)

bench-baseline: build ## Measure that baseline anew
	@$(BIN)/smrctl bench figures $(SMOKE) --write-baseline $(BASELINE) $(BENCHFLAGS)

bench-compare: build ## Rate, latency and CPU over the number of connections, with plots (about four minutes)
	@$(BIN)/smrctl bench compare $(COMPARE) --out var/bench-compare $(BENCHFLAGS)

bench-record: build ## Measure everything on a quiet machine and write docs/performance.md anew (about twenty-five minutes)
	@$(BIN)/smrctl bench figures --out var/bench-figures --record docs/performance.md
	@$(BIN)/smrctl bench compare $(COMPARE) --out var/bench-compare --record docs/performance.md
	@$(BIN)/smrctl bench compare $(LOADS) --out var/bench-loads --record docs/performance.md
	@$(BIN)/smrctl bench stages --out var/bench-stages --record docs/performance.md
	@$(BIN)/smrctl bench floor --out var/bench-floor --record docs/performance.md

drill: build ## Kill the master 20 times and measure the fail-overs
	@$(BIN)/smrctl bench failover $(DRILLFLAGS)

chaos: build ## Put a cluster through faults for MIN minutes and check what its clients saw (SEED=n)
	@$(BIN)/smrctl chaos --minutes $(MIN) $(if $(SEED),--seed $(SEED)) $(CHAOSFLAGS)

sim: ## Simulate groups under faults for a minute; SEED=n replays one schedule (FULL=1: the one with raft)
	$(GO) run ./cmd/smrsim $(if $(SEED),-seed $(SEED) $(if $(FULL),-full),-minutes 1) $(SIMFLAGS)

sim-long: ## The same for MIN minutes; fails as well if a rare branch was never reached
	$(GO) run ./cmd/smrsim -minutes $(MIN) -every 10s -probes $(SIMFLAGS)

explore: ## Search every state of small groups with the real cores (about 20 minutes; EXPLOREFLAGS='-explore.seconds=60' for less)
	$(GO) test ./internal/explore -run 'Scopes|Mutants' -v -tags mutants -timeout 180m -explore.full $(EXPLOREFLAGS)

mutants: ## Plant errors in the real code, measure how soon each is found, write docs/mutants.md (about five minutes)
	$(GO) run -tags mutants ./cmd/smrmutants -record -page docs/mutants.md $(MUTANTFLAGS)

mutants-quick: ## Every planted error must still be found: what is known to find it comes first (a minute)
	$(GO) run -tags mutants ./cmd/smrmutants -quick $(MUTANTFLAGS)

fuzz-short: ## Run every fuzz target for FUZZTIME
	@.ci/fuzz $(FUZZTIME)

oracle: ## Record again what redis-server 7.0 answers (needs redis-server; SOAK=1000000: compare that many random commands instead)
	$(GO) run ./internal/kv/oracle $(if $(SOAK),-soak -count $(SOAK)) $(ORACLEFLAGS)

docs: ## Write docs/smrctl.md and the tables of docs/configuration.md anew from the commands and flags
	$(GO) test -p 1 -count=1 -run TestReferenceIsCurrent ./cmd/kvnode ./cmd/replicator ./cmd/confmaster ./internal/ctl -args -update

ci: ## What the continuous integration runs
	@.ci/run

proto: ## Generate the gRPC code again (needs protoc, protoc-gen-go, protoc-gen-go-grpc)
	protoc -I proto --go_out=. --go_opt=module=lockstep --go-grpc_out=. --go-grpc_opt=module=lockstep proto/*.proto

release: ## Build static programs, archives, bills of materials and SHA256SUMS into dist/ (CHECK=1: twice, and compare)
	$(GO) run ./internal/deploy/release $(if $(CHECK),-check)

deploy-test: ## Render the Helm chart with Helm's engine, and bring the compose file up if a Docker engine runs here
	cd deploy/helm/test && $(GO) test .
	$(GO) test ./internal/deploy -run DockerCompose -tags docker -v -timeout 20m

clean: ## Remove what was built (not var/, which holds data)
	rm -rf $(BIN) dist
