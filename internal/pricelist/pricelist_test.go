package pricelist_test

import (
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/internal/pricelist"
	"github.com/dayfly-run/dayfly/machine"
)

// The rows of Fly's page for Ashburn, which shows hundred-millionths of a dollar per second.
func TestFlysPricesAreThoseOfItsPage(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		preset   string
		memoryMB int // 0: what the preset has
		want     int64
	}{
		{"shared-cpu-1x", 0, 85}, {"shared-cpu-1x", 512, 143}, {"shared-cpu-1x", 1024, 258}, {"shared-cpu-1x", 2048, 490},
		{"shared-cpu-2x", 0, 169}, {"shared-cpu-2x", 4096, 980}, {"shared-cpu-4x", 0, 339}, {"shared-cpu-8x", 0, 677},
		{"shared-cpu-8x", 16384, 3920}, {"performance-1x", 0, 1273}, {"performance-1x", 8192, 2663}, {"performance-2x", 0, 2546},
		{"performance-4x", 16384, 6946}, {"performance-8x", 0, 10186}, {"performance-16x", 0, 20371}, {"performance-16x", 131072, 42605},
	} {
		size, err := machine.ParseSize(row.preset)
		if err != nil {
			t.Fatal(err)
		}
		if row.memoryMB > 0 {
			size.MemoryMB = row.memoryMB
		}
		p, ok := pricelist.Fly{}.Price(size, "iad")
		got := (int64(p.Rate)*100/3600 + 500) / 1000 // hundred-millionths per second, rounded
		if !ok || got != row.want || p.Minimum != time.Second || p.Date != pricelist.FlyDate {
			t.Errorf("%s with %d MiB: got %d of %+v, known %v; want %d", row.preset, size.MemoryMB, got, p, ok, row.want)
		}
	}
}

func TestFlysPriceDependsOnTheRegionAndIsTheDearestOfSeveral(t *testing.T) {
	t.Parallel()
	size, err := machine.ParseSize("shared-cpu-1x")
	if err != nil {
		t.Fatal(err)
	}
	for region, want := range map[string]machine.Rate{
		"iad": 3_047_400, "ams": 3_164_608, "ams,fra": 3_516_231, " fra , iad": 3_516_231, "": 4_922_724, // São Paulo
	} {
		if p, ok := (pricelist.Fly{}).Price(size, region); !ok || p.Rate != want {
			t.Errorf("in %q: got %d, known %v; want %d", region, p.Rate, ok, want)
		}
	}
}

func TestWhatIsNotOnAListHasNoKnownPrice(t *testing.T) {
	t.Parallel()
	known := machine.Size{CPUs: 1, MemoryMB: 1024}
	gpu := machine.Size{CPUs: 8, MemoryMB: 32768, GPU: "a10"}
	for what, asked := range map[string]struct {
		kind   string
		size   machine.Size
		region string
	}{
		"a GPU of Fly":                         {"fly", gpu, "iad"},
		"a region that Fly has not":            {"fly", known, "mars"},
		"a list with a region that is unknown": {"fly", known, "iad,mars"},
		"a GPU of ACI":                         {"aci", gpu, "eastus"},
		"a region whose price is not known":    {"aci", known, "westus"},
		"no region where prices differ":        {"aci", known, ""},
		"a size that says nothing":             {"aci", machine.Size{}, "eastus"},
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
