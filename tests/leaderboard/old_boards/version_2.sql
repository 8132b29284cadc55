BEGIN TRANSACTION;
CREATE TABLE sb_costs (
	track INTEGER NOT NULL, 
	entry VARCHAR(16) NOT NULL, 
	accuracy DOUBLE NOT NULL, 
	"drop" DOUBLE NOT NULL, 
	speedup DOUBLE, 
	low DOUBLE, 
	high DOUBLE, 
	latency DOUBLE, 
	energy DOUBLE, 
	unstable BOOLEAN NOT NULL, 
	total_seconds DOUBLE, 
	PRIMARY KEY (track, entry), 
	FOREIGN KEY(track) REFERENCES sb_tracks (id), 
	FOREIGN KEY(entry) REFERENCES sb_entries (id)
);
INSERT INTO "sb_costs" VALUES(1,'e0cd519c8041d109',0.97,1.0,2.0,1.94,2.06,0.0005,NULL,0,15.5);
INSERT INTO "sb_costs" VALUES(1,'c4d18cbbbe8e5b38',0.95,3.0,4.0,3.88,4.12,0.00025,NULL,0,3.5);
INSERT INTO "sb_costs" VALUES(2,'c4d18cbbbe8e5b38',0.97,1.0,8.0,7.76,8.24,0.000125,NULL,0,3.5);
INSERT INTO "sb_costs" VALUES(1,'5bfa2435d0cb8b48',0.97,1.0,NULL,NULL,NULL,NULL,NULL,0,15.5);
INSERT INTO "sb_costs" VALUES(1,'44cae897d11d84f3',0.97,1.0,1.0,0.97,1.03,0.001,NULL,0,15.5);
CREATE TABLE sb_entries (
	id VARCHAR(16) NOT NULL, 
	study VARCHAR(200) NOT NULL, 
	strategy VARCHAR(200) NOT NULL, 
	trial BIGINT NOT NULL, 
	workload VARCHAR(200) NOT NULL, 
	role VARCHAR(20) NOT NULL, 
	seed BIGINT NOT NULL, 
	plan_digest VARCHAR(200) NOT NULL, 
	top1 DOUBLE, 
	top5 DOUBLE, 
	miou DOUBLE, 
	dense_accuracy DOUBLE NOT NULL, 
	parameters BIGINT NOT NULL, 
	macs BIGINT NOT NULL, 
	bytes BIGINT NOT NULL, 
	dense_parameters BIGINT NOT NULL, 
	dense_macs BIGINT NOT NULL, 
	epochs DOUBLE NOT NULL, 
	seconds DOUBLE NOT NULL, 
	dense_epochs DOUBLE NOT NULL, 
	dense_seconds DOUBLE NOT NULL, 
	starts_from VARCHAR(20), 
	total_epochs DOUBLE, 
	epoch_fp32 DOUBLE, 
	epoch_bf16 DOUBLE, 
	dense_epoch_fp32 DOUBLE, 
	dense_epoch_bf16 DOUBLE, 
	created VARCHAR(40) NOT NULL, 
	document TEXT NOT NULL, 
	PRIMARY KEY (id), 
	CONSTRAINT sb_entries_key UNIQUE (study, strategy, trial)
);
INSERT INTO "sb_entries" VALUES('e0cd519c8041d109','first','pca_l1+int',0,'digits/cnn','candidate',1,'ab12',0.97,1.0,NULL,0.98,1000,20000,4000,9000,90000,2.0,3.5,10.0,12.0,NULL,12.0,NULL,NULL,NULL,NULL,'2026-11-22T03:08:21Z','{
"id": "e0cd519c8041d109",
"schema_version": 2,
"workload": "digits/cnn",
"strategy": "pca_l1+int",
"study": "first",
"trial": 0,
"role": "candidate",
"seed": 1,
"plan": {"ratio": 0.5, "groups": {"conv1": {"keep": 0.25, "bits": 8}}, "mode": "variance"},
"plan_digest": "ab12",
"knobs": {"ratio": 0.5, "bits": 8},
"epochs": 2.0,
"accuracy": {"validation": {"top1": 0.97, "top5": 1.0, "miou": null}, "test": null, "dense_validation": 0.98},
"parameters": 1000,
"macs": 20000,
"bytes": 4000,
"dense_parameters": 9000,
"dense_macs": 90000,
"costs": [{"target": "cpu-onnxruntime", "key": "cpu-onnxruntime@ab12cd34", "kind": "measured", "figures": {"latency": {"value": 0.0005, "unit": "s", "low": null, "high": null, "reason": null}, "energy": {"value": null, "unit": "J", "low": null, "high": null, "reason": "no meter"}}, "speedup": {"value": 2.0, "low": 1.94, "high": 2.06, "reason": null}, "executed": {"conv1": ["int8", "int8"]}, "runtime_accuracy": null, "unstable": false, "telemetry": {"steal": null, "switches": 3.0}, "samples": {"candidate": [[0.001, 0.0011], [0.001]]}}],
"training": {"epochs": 2.0, "seconds": 3.5, "images": 2000, "dense_epochs": 10.0, "dense_seconds": 12.0},
"environment": {"python": "3.11.7", "torch": "2.13.0", "onnxruntime": null, "shrinkboard": "0.1", "platform": "Linux x86_64", "cpu": "some CPU"},
"dense_digest": "cd34",
"created": "2026-11-22T03:08:21Z"
}
');
INSERT INTO "sb_entries" VALUES('c4d18cbbbe8e5b38','first','l1+int',1,'digits/cnn','candidate',1,'ab12',0.97,1.0,NULL,0.98,1000,20000,4000,9000,90000,2.0,3.5,10.0,12.0,'initial',2.0,0.5,NULL,1.0,NULL,'2026-11-22T03:08:21Z','{
"id": "c4d18cbbbe8e5b38",
"schema_version": 2,
"workload": "digits/cnn",
"strategy": "l1+int",
"study": "first",
"trial": 1,
"role": "candidate",
"seed": 1,
"plan": {"ratio": 0.5, "groups": {"conv1": {"keep": 0.25, "bits": 8}}, "mode": "variance"},
"plan_digest": "ab12",
"knobs": {"ratio": 0.5, "bits": 8},
"epochs": 2.0,
"accuracy": {"validation": {"top1": 0.97, "top5": 1.0, "miou": null}, "test": null, "dense_validation": 0.98},
"parameters": 1000,
"macs": 20000,
"bytes": 4000,
"dense_parameters": 9000,
"dense_macs": 90000,
"costs": [{"target": "cpu-onnxruntime", "key": "cpu-onnxruntime@ab12cd34", "kind": "measured", "figures": {"latency": {"value": 0.00025, "unit": "s", "low": null, "high": null, "reason": null}, "energy": {"value": null, "unit": "J", "low": null, "high": null, "reason": "no meter"}}, "speedup": {"value": 4.0, "low": 3.88, "high": 4.12, "reason": null}, "executed": {"conv1": ["int8", "int8"]}, "runtime_accuracy": {"top1": 0.95, "top5": null, "miou": null}, "unstable": false, "telemetry": {"steal": null, "switches": 3.0}, "samples": {"candidate": [[0.001, 0.0011], [0.001]]}}, {"target": "fpga-zcu104", "key": "fpga-zcu104", "kind": "modelled", "figures": {"latency": {"value": 0.000125, "unit": "s", "low": null, "high": null, "reason": null}, "energy": {"value": null, "unit": "J", "low": null, "high": null, "reason": "no meter"}}, "speedup": {"value": 8.0, "low": 7.76, "high": 8.24, "reason": null}, "executed": {"conv1": ["int8", "int8"]}, "runtime_accuracy": null, "unstable": false, "telemetry": {"steal": null, "switches": 3.0}, "samples": {"candidate": [[0.001, 0.0011], [0.001]]}}],
"training": {"epochs": 2.0, "seconds": 3.5, "images": 2000, "dense_epochs": 10.0, "dense_seconds": 12.0, "starts_from": "initial", "epoch_fp32": 0.5, "dense_epoch_fp32": 1.0},
"environment": {"python": "3.11.7", "torch": "2.13.0", "onnxruntime": null, "shrinkboard": "0.1", "platform": "Linux x86_64", "cpu": "some CPU"},
"dense_digest": "cd34",
"created": "2026-11-22T03:08:21Z"
}
');
INSERT INTO "sb_entries" VALUES('5bfa2435d0cb8b48','first','pca_l1+int',2,'digits/cnn','candidate',1,'ab12',0.97,1.0,NULL,0.98,1000,20000,4000,9000,90000,2.0,3.5,10.0,12.0,NULL,12.0,NULL,NULL,NULL,NULL,'2026-11-22T03:08:21Z','{
"id": "5bfa2435d0cb8b48",
"schema_version": 2,
"workload": "digits/cnn",
"strategy": "pca_l1+int",
"study": "first",
"trial": 2,
"role": "candidate",
"seed": 1,
"plan": {"ratio": 0.5, "groups": {"conv1": {"keep": 0.25, "bits": 8}}, "mode": "variance"},
"plan_digest": "ab12",
"knobs": {"ratio": 0.5, "bits": 8},
"epochs": 2.0,
"accuracy": {"validation": {"top1": 0.97, "top5": 1.0, "miou": null}, "test": null, "dense_validation": 0.98},
"parameters": 1000,
"macs": 20000,
"bytes": 4000,
"dense_parameters": 9000,
"dense_macs": 90000,
"costs": [{"target": "cpu-onnxruntime", "key": "cpu-onnxruntime@ab12cd34", "kind": "measured", "figures": {"latency": {"value": null, "unit": "s", "low": null, "high": null, "reason": "not timed"}, "energy": {"value": null, "unit": "J", "low": null, "high": null, "reason": "no meter"}}, "speedup": {"value": null, "low": null, "high": null, "reason": "not timed"}, "executed": {"conv1": ["int8", "int8"]}, "runtime_accuracy": null, "unstable": false, "telemetry": {"steal": null, "switches": 3.0}, "samples": {"candidate": [[0.001, 0.0011], [0.001]]}}],
"training": {"epochs": 2.0, "seconds": 3.5, "images": 2000, "dense_epochs": 10.0, "dense_seconds": 12.0},
"environment": {"python": "3.11.7", "torch": "2.13.0", "onnxruntime": null, "shrinkboard": "0.1", "platform": "Linux x86_64", "cpu": "some CPU"},
"dense_digest": "cd34",
"created": "2026-11-22T03:08:21Z"
}
');
INSERT INTO "sb_entries" VALUES('44cae897d11d84f3','first','dense',0,'digits/cnn','control',1,'ab12',0.97,1.0,NULL,0.98,1000,20000,4000,9000,90000,2.0,3.5,10.0,12.0,NULL,12.0,NULL,NULL,NULL,NULL,'2026-11-22T03:08:21Z','{
"id": "44cae897d11d84f3",
"schema_version": 2,
"workload": "digits/cnn",
"strategy": "dense",
"study": "first",
"trial": 0,
"role": "control",
"seed": 1,
"plan": {},
"plan_digest": "ab12",
"knobs": {},
"epochs": 2.0,
"accuracy": {"validation": {"top1": 0.97, "top5": 1.0, "miou": null}, "test": null, "dense_validation": 0.98},
"parameters": 1000,
"macs": 20000,
"bytes": 4000,
"dense_parameters": 9000,
"dense_macs": 90000,
"costs": [{"target": "cpu-onnxruntime", "key": "cpu-onnxruntime@ab12cd34", "kind": "measured", "figures": {"latency": {"value": 0.001, "unit": "s", "low": null, "high": null, "reason": null}, "energy": {"value": null, "unit": "J", "low": null, "high": null, "reason": "no meter"}}, "speedup": {"value": 1.0, "low": 0.97, "high": 1.03, "reason": null}, "executed": {"conv1": ["int8", "int8"]}, "runtime_accuracy": null, "unstable": false, "telemetry": {"steal": null, "switches": 3.0}, "samples": {"candidate": [[0.001, 0.0011], [0.001]]}}],
"training": {"epochs": 2.0, "seconds": 3.5, "images": 2000, "dense_epochs": 10.0, "dense_seconds": 12.0},
"environment": {"python": "3.11.7", "torch": "2.13.0", "onnxruntime": null, "shrinkboard": "0.1", "platform": "Linux x86_64", "cpu": "some CPU"},
"dense_digest": "cd34",
"created": "2026-11-22T03:08:21Z"
}
');
CREATE TABLE sb_meta (
	name VARCHAR(40) NOT NULL, 
	value VARCHAR(200) NOT NULL, 
	PRIMARY KEY (name)
);
INSERT INTO "sb_meta" VALUES('schema','2');
CREATE TABLE sb_references (
	workload VARCHAR(200) NOT NULL, 
	"key" VARCHAR(200) NOT NULL, 
	latency DOUBLE NOT NULL, 
	dense_accuracy DOUBLE NOT NULL, 
	PRIMARY KEY (workload, "key")
);
INSERT INTO "sb_references" VALUES('digits/cnn','cpu-onnxruntime@ab12cd34',0.001,0.98);
CREATE TABLE sb_tracks (
	id INTEGER NOT NULL, 
	workload VARCHAR(200) NOT NULL, 
	target VARCHAR(200) NOT NULL, 
	"key" VARCHAR(200) NOT NULL, 
	kind VARCHAR(20) NOT NULL, 
	PRIMARY KEY (id), 
	CONSTRAINT sb_tracks_key UNIQUE (workload, "key")
);
INSERT INTO "sb_tracks" VALUES(1,'digits/cnn','cpu-onnxruntime','cpu-onnxruntime@ab12cd34','measured');
INSERT INTO "sb_tracks" VALUES(2,'digits/cnn','fpga-zcu104','fpga-zcu104','modelled');
CREATE INDEX sb_costs_front ON sb_costs (track, speedup, accuracy, entry);
CREATE INDEX sb_costs_entry ON sb_costs (entry);
CREATE INDEX sb_costs_training ON sb_costs (track, total_seconds, accuracy, entry);
COMMIT;
