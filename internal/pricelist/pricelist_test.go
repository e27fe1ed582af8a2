package pricelist_test

import (
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/internal/pricelist"
	"github.com/dayfly-run/dayfly/machine"
)

func TestWhatIsNotOnAListHasNoKnownPrice(t *testing.T) {
	t.Parallel()
	known := machine.Size{CPUs: 1, MemoryMB: 1024}
	gpu := machine.Size{CPUs: 8, MemoryMB: 32768, GPU: "a10"}
	for what, asked := range map[string]struct {
		kind   string
		size   machine.Size
		region string
	}{
		"a GPU of ACI":                      {"aci", gpu, "eastus"},
		"a region whose price is not known": {"aci", known, "westus"},
		"no region where prices differ":     {"aci", known, ""},
		"a size that says nothing":          {"aci", machine.Size{}, "eastus"},
	} {
		prices, ok := pricelist.ByKind(asked.kind)
		if !ok {
			t.Fatalf("there is no list for %s", asked.kind)
		}
		if p, ok := prices.Price(asked.size, asked.region); ok {
			t.Errorf("%s: got %+v, want no known price", what, p)
		}
	}
	if _, ok := pricelist.ByKind("kubernetes"); ok {
		t.Error("a kind without a list: got one")
	}
}

func TestACIsPriceIsThatOfItsProcessorsAndItsMemory(t *testing.T) {
	t.Parallel()
	p, ok := pricelist.ACI{}.Price(machine.Size{CPUs: 0.5, MemoryMB: 1536}, "EastUS")
	if want := (machine.Price{Rate: 20_250_000 + 6_675_000, Minimum: time.Second, Date: "2026-08-27"}); !ok || p != want {
		t.Errorf("half a processor and 1.5 GB: got %+v, known %v; want %+v", p, ok, want)
	}
}

func TestOwnHardwareIsListedAsFree(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"local", "docker"} {
		prices, ok := pricelist.ByKind(kind)
		if !ok {
			t.Fatalf("there is no list for %s", kind)
		}
		if p, ok := prices.Price(machine.Size{}, ""); !ok || p != (machine.Price{}) {
			t.Errorf("%s: got %+v, known %v; want nothing", kind, p, ok)
		}
	}
}
