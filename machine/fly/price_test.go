package fly_test

import (
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/machine/fly"
)

// The rows of Fly's page for Ashburn, which shows hundred-millionths of a dollar per second.
func TestPricesAreThoseOfFlysPage(t *testing.T) {
	t.Parallel()
	p := fly.New("app", "token", nil)
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
		price, ok := p.Price(size, "iad")
		got := (int64(price.Rate)*100/3600 + 500) / 1000 // hundred-millionths per second, rounded
		if !ok || got != row.want || price.Minimum != time.Second || price.Date != fly.PriceDate {
			t.Errorf("%s with %d MiB: got %d of %+v, known %v; want %d", row.preset, size.MemoryMB, got, price, ok, row.want)
		}
	}
}

func TestAPriceDependsOnTheRegionAndIsTheDearestOfSeveral(t *testing.T) {
	t.Parallel()
	small := machine.Size{Preset: "shared-cpu-1x"}
	for region, want := range map[string]machine.Rate{
		"iad": 3_047_400, "ams": 3_164_608, "ams,fra": 3_516_231, " fra , iad": 3_516_231, "": 4_922_724, // São Paulo
	} {
		if price, ok := fly.New("app", "token", nil).Price(small, region); !ok || price.Rate != want {
			t.Errorf("in %q: got %d, known %v; want %d", region, price.Rate, ok, want)
		}
	}
}

func TestAPriceIsThatOfTheProvidersDefaults(t *testing.T) {
	t.Parallel()
	p := fly.New("app", "token", &fly.Options{Region: "ewr,ams", Size: machine.Size{Preset: "performance-1x"}})
	if price, ok := p.Price(machine.Size{}, ""); !ok || price.Rate != 47_598_093 {
		t.Errorf("with a default size and regions: got %d, known %v; want a performance-1x in ams", price.Rate, ok)
	}
	if price, ok := fly.New("app", "token", nil).Price(machine.Size{}, "iad"); !ok || price.Rate != 3_047_400 {
		t.Errorf("without any: got %d, known %v; want a shared-cpu-1x", price.Rate, ok)
	}
	if price, ok := fly.New("app", "token", nil).Price(machine.Size{CPUs: 16, MemoryMB: 32768}, "iad"); !ok || price.Rate != 733_363_200 {
		t.Errorf("of bare numbers: got %d, known %v; want the kind of processor that has them", price.Rate, ok)
	}
}

func TestWhatIsNotOnFlysPageHasNoKnownPrice(t *testing.T) {
	t.Parallel()
	p := fly.New("app", "token", nil)
	for what, asked := range map[string]struct {
		size   machine.Size
		region string
	}{
		"a GPU":                        {machine.Size{Preset: "a10"}, "iad"},
		"a region that Fly has not":    {machine.Size{}, "mars"},
		"a group of regions":           {machine.Size{}, "eu"},
		"a list with one that is none": {machine.Size{}, "iad,mars"},
		"a machine that Fly has not":   {machine.Size{CPUs: 3, MemoryMB: 256}, "iad"},
	} {
		if price, ok := p.Price(asked.size, asked.region); ok {
			t.Errorf("%s: got %+v, want no known price", what, price)
		}
	}
}

func TestMachinesOfAnotherServerAreOnOwnHardware(t *testing.T) {
	t.Parallel()
	p := fly.New("app", "token", &fly.Options{URL: "http://127.0.0.1:7700"})
	if price, ok := p.Price(machine.Size{}, "anywhere"); !ok || price != (machine.Price{}) {
		t.Errorf("got %+v, known %v; want nothing", price, ok)
	}
	inside := fly.New("app", "token", &fly.Options{URL: "http://_api.internal:4280"})
	if price, ok := inside.Price(machine.Size{}, "iad"); !ok || price.Rate == 0 {
		t.Errorf("from inside Fly: got %+v, known %v; want Fly's price", price, ok)
	}
}
