# make demo    builds podrun and replays a session on pods, as an ordinary user
# make test    every test, as an ordinary user and as root
#
# Both set up what they need, see scripts/setup.sh. The others are below.

GO ?= go
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
COMMIT  := $(shell git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
PREFIX  ?= /usr/local

REGISTRY_VERSION    := v3.1.2
STATICCHECK_VERSION := v0.8.2
GOVULNCHECK_VERSION := v1.9.0

# Static, because the init of a container starts before any library could be
# found; without the build's paths and times, so that equal sources give equal
# binaries.
TAGS    := netgo osusergo seccomp
LDFLAGS := -s -w -linkmode external -extldflags=-static \
	-X get.podrun.dev/podrun/node.Version=$(VERSION) -X get.podrun.dev/podrun/node.Commit=$(COMMIT)
BUILD   := $(GO) build -trimpath -buildvcs=false -tags '$(TAGS)'

export GO TAGS
export CGO_ENABLED := 1

.PHONY: build
build: bin/podrun

.PHONY: bin/podrun
bin/podrun: build/.setup
	@$(BUILD) -ldflags '$(LDFLAGS)' -o $@ ./cmd/podrun
	@printf '%s %s, %s bytes\n' $@ '$(VERSION)' "$$(stat -c %s $@)"

# The session of the README, on an image served from this machine.
.PHONY: demo
demo: bin/podrun build/serve build/registry
	@scripts/demo.sh

.PHONY: test unit integration race
test unit integration race: bin/podrun build/registry build/cni build/image/app
	@scripts/test.sh $@

# For DURATION, as an ordinary user: 200 pods start and stop in a loop and leave
# nothing, no address, link, descriptor, goroutine or file; beside them 20 pods,
# their containers and the node are killed, applied and deleted at random, and
# compared with a model. SEED=N repeats what a run that logged N did.
DURATION ?= 10m
SEED ?=
.PHONY: soak
soak: bin/podrun build/registry build/image/app
	@PODRUN_SOAK=$(DURATION) PODRUN_SOAK_SEED=$(SEED) PODRUN_TEST_AS=$${PODRUN_TEST_AS:-user} scripts/test.sh soak

# Much of everything: 300 pods, 2,000 objects, 200 commands at once, 1 GB of
# logs, a fork bomb. The figures of docs/performance.md are in what it prints.
.PHONY: load
load: bin/podrun build/registry build/image/app
	@PODRUN_LOAD=full PODRUN_TEST_AS=$${PODRUN_TEST_AS:-user} scripts/test.sh load

# What this machine has not: systemd, cgroup v2 and a user who logs in. Ends in
# a line of counts, as test does; the image is kept in ~/.cache/podrun-vm.
.PHONY: vm-test
vm-test: bin/podrun build/registry build/image/app
	@scripts/vm.sh

# The Vagrantfile, on a local box and without virtualisation by the processor.
.PHONY: vagrant-test
vagrant-test: bin/podrun build/registry build/image/app
	@scripts/vagrant.sh

# What the compiler lets pass: gofmt, vet, staticcheck, and what has bitten us.
.PHONY: lint
lint: build/.setup
	@STATICCHECK=honnef.co/go/tools/cmd/staticcheck@$(STATICCHECK_VERSION) scripts/lint.sh

# What is known of holes in what podrun links; asks vuln.go.dev.
.PHONY: vulncheck
vulncheck: build/.setup
	@$(GO) run golang.org/x/vuln/cmd/govulncheck@$(GOVULNCHECK_VERSION) -tags '$(TAGS)' ./cmd/podrun

# Every fuzz target for FUZZTIME each, 5m, guided by coverage; make test runs
# each for 30s, without.
.PHONY: fuzz
fuzz: build/.setup
	@scripts/fuzz.sh

# The table of docs/performance.md; ARGS=--write puts it there.
.PHONY: bench
bench: bin/podrun build/serve build/bench build/registry
	@scripts/bench.sh $(ARGS)

.PHONY: install
install: bin/podrun
	install -D -m 0755 bin/podrun $(DESTDIR)$(PREFIX)/bin/podrun

.PHONY: clean
clean:
	rm -rf bin build

# Debian packages and, for root, an ordinary user.
build/.setup: scripts/setup.sh scripts/lib.sh
	@scripts/setup.sh
	@mkdir -p build && touch $@

# A registry that serves an image made from Debian's busybox-static.
build/registry:
	GOBIN=$(CURDIR)/build CGO_ENABLED=0 $(GO) install github.com/distribution/distribution/v3/cmd/registry@$(REGISTRY_VERSION)

# The plugins that networks of the tests are made with, of the version that
# podrun's own are made from, and the tool of the authors of CNI, of libcni's.
CNI_PLUGINS := main/bridge main/macvlan main/ptp meta/bandwidth meta/tuning ipam/host-local ipam/static
build/cni: go.mod Makefile
	version() { $(GO) list -m -f '{{.Version}}' github.com/containernetworking/$$1; } && plugins=$$(version plugins) && cni=$$(version cni) && \
	export GOBIN=$(CURDIR)/$@ CGO_ENABLED=0 && $(GO) install -trimpath -ldflags '-s -w' \
		$(foreach p,$(CNI_PLUGINS),github.com/containernetworking/plugins/plugins/$(p)@$$plugins) && \
	$(GO) install -trimpath -ldflags '-s -w' github.com/containernetworking/cni/cnitool@$$cni && touch $@

# What runs in the containers of the tests. It is a module of its own.
.PHONY: build/image/app
build/image/app: build/.setup
	@CGO_ENABLED=0 $(GO) -C integration/app build -trimpath -buildvcs=false -ldflags '-s -w' -o $(CURDIR)/$@ .

.PHONY: build/serve build/bench
build/serve build/bench: build/.setup
	@CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -o $@ ./integration/$(notdir $@)
