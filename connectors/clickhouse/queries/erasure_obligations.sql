-- What erasures made owed: models to retrain without somebody, or to retire.
SELECT model, agent, dataset_id, opened, live_model, state, how
FROM erasure_obligations
WHERE erasure_id = {erasure:String}
ORDER BY model
