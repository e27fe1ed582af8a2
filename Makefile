# Every target with a ## comment is listed by "make help".

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
GOLANGCI_VERSION := v2.15.0
FUZZTIME ?= 30s

# What a release is built with: no C library, no paths of the builder's computer, no symbol tables.
BUILD := CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=$(VERSION)"


# Packages whose tests wait for most of a minute or more. They begin first, so that the others run meanwhile.
PATIENT := ./internal/survival ./machine/local ./machine/docker ./internal/cli ./internal/agent ./internal/app

.PHONY: help
help: ## Show what can be made
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sort | sed -E 's/:.*## /\t/' | \
		while IFS=$$'\t' read -r target what; do printf '  make %-13s %s\n' "$$target" "$$what"; done

.PHONY: setup
setup: ## Install what the tests need beyond Go and git
	@bash scripts/setup

.PHONY: build
build: ## Build bin/dayfly and bin/dayfly-agent
	@mkdir -p bin
	$(BUILD) -o bin/dayfly ./cmd/dayfly
	$(BUILD) -o bin/dayfly-agent ./cmd/dayfly-agent

.PHONY: demo
demo: ## See it work: run a few jobs on this computer
	@bash scripts/setup demo
	@$(MAKE) --no-print-directory build
	@bash scripts/demo

.PHONY: test
test: setup build ## Vet, and run all tests, under the race detector, and the crash tests
	bash scripts/test $(PATIENT) ./...
	bash scripts/test-crashes -race '-gcflags=modernc.org/...=-race=false' -vet=all -timeout 15m

.PHONY: test-cgroup2
test-cgroup2: ## Test machines on a virtual computer that has cgroups of version 2 alone
	@bash scripts/test-cgroup2

.PHONY: bench
bench: build ## Measure, and compare with the baselines
	go run ./bench -dayfly bin/dayfly

.PHONY: fuzz
fuzz: ## Run every fuzz test for FUZZTIME (30s)
	bash scripts/fuzz $(FUZZTIME)

.PHONY: lint
lint: bin/golangci-lint-$(GOLANGCI_VERSION) ## Check format, modules and lint
	@unformatted=$$(gofmt -l $$(git ls-files --cached --others --exclude-standard '*.go')); \
		[ -z "$$unformatted" ] || { printf 'gofmt would change:\n%s\n' "$$unformatted" >&2; exit 1; }
	go mod tidy -diff
	bin/golangci-lint-$(GOLANGCI_VERSION) run

bin/golangci-lint-$(GOLANGCI_VERSION):
	@mkdir -p bin
	GOBIN=$(CURDIR)/bin/tools go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION)
	@mv bin/tools/golangci-lint $@ && rmdir bin/tools

.PHONY: coverage
coverage: ## Measure which code the tests reach: bin/coverage.html
	@mkdir -p bin
	go test -coverpkg=./... -coverprofile=bin/coverage.out ./...
	@go tool cover -html=bin/coverage.out -o bin/coverage.html
	@go tool cover -func=bin/coverage.out | tail -n 1

.PHONY: clean
clean: ## Remove what was built
	rm -rf bin
