"""The streaming server: sessions, transports and jobs around a model that is handed in (docs/serving.md). It knows no network."""
