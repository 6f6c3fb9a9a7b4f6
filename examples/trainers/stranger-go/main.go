// A trainer such as a stranger to this project would bring: standard Go, compiled with GOOS=wasip1, following
// the environment ABI (docs/reference/guest-abi.md) and nothing else. It exports both _start, which Go adds,
// and run, which only works once Go's runtime stands. Linear regression by one gradient step per epoch.
package main

import (
	"encoding/json"
	"fmt"
	"os"
)

type model struct {
	W []float64 `json:"w"`
	B float64   `json:"b"`
}

type row struct {
	X []float64 `json:"x"`
	Y float64   `json:"y"`
}

type dataset struct {
	Data []row `json:"data"`
}

type hyperparams struct {
	Epochs int     `json:"epochs"`
	LR     float64 `json:"lr"`
}

type update struct {
	RoundID      string             `json:"round_id"`
	PropletID    string             `json:"proplet_id"`
	BaseModelURI string             `json:"base_model_uri"`
	NumSamples   int                `json:"num_samples"`
	Metrics      map[string]float64 `json:"metrics"`
	Update       model              `json:"update"`
}

func read(name string, into any) error {
	if err := json.Unmarshal([]byte(os.Getenv(name)), into); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

func residual(m model, r row) float64 {
	z := m.B
	for j, x := range r.X {
		z += m.W[j] * x
	}
	return z - r.Y
}

func epoch(m *model, rows []row, lr float64) {
	w, b := make([]float64, len(m.W)), 0.0
	for _, r := range rows {
		e := residual(*m, r)
		for j, x := range r.X {
			w[j] += e * x
		}
		b += e
	}
	for j := range w {
		m.W[j] -= lr * w[j] / float64(len(rows))
	}
	m.B -= lr * b / float64(len(rows))
}

func loss(m model, rows []row) (sum float64) {
	for _, r := range rows {
		e := residual(m, r)
		sum += e * e / float64(len(rows))
	}
	return sum
}

func train() error {
	var m model
	var d dataset
	h := hyperparams{Epochs: 1, LR: 0.01}
	if os.Getenv("ROUND_ID") == "" {
		return fmt.Errorf("ROUND_ID is not set")
	}
	for name, into := range map[string]any{"MODEL_DATA": &m, "DATASET_DATA": &d, "HYPERPARAMS": &h} {
		if err := read(name, into); err != nil {
			return err
		}
	}
	for i := 0; i < h.Epochs; i++ {
		epoch(&m, d.Data, h.LR)
	}
	return json.NewEncoder(os.Stdout).Encode(update{
		RoundID:      os.Getenv("ROUND_ID"),
		PropletID:    os.Getenv("PROPLET_ID"),
		BaseModelURI: os.Getenv("MODEL_URI"),
		NumSamples:   len(d.Data),
		Metrics:      map[string]float64{"loss": loss(m, d.Data)},
		Update:       m,
	})
}

//go:wasmexport run
func run() int32 {
	if err := train(); err != nil {
		fmt.Fprintln(os.Stderr, "stranger:", err)
		return 1
	}
	return 0
}

func main() {
	os.Exit(int(run()))
}
