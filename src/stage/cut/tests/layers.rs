//! How many layers there may be.

use super::*;

#[test]
fn borders_have_layers_left_and_too_many_are_refused() {
    let small = |at: usize| entry(&format!("f{at}"), b'0', &[1; 600]);
    let many: Vec<_> = (0..3000).map(small).collect();
    let options = CutOptions { own_layers: vec![WORKSPACE.to_vec()], ..about(1024) };
    let by_size = cut(&options, &archive(&many), 5000).unwrap().len();
    let workspace = |at: usize| entry(&format!("workspace/{at}"), b'0', b"1");
    let with_borders = |borders: usize| {
        let crossing = (0..borders).map(|at| if at % 2 == 0 { workspace(at) } else { small(3000 + at) });
        cut(&options, &archive(&[many.clone(), crossing.collect()].concat()), 5000)
    };
    let left = usize::try_from(LAYERS_MAX).unwrap() - by_size;
    assert!((4..=8).contains(&left), "{by_size} layers by size");
    assert_eq!(with_borders(left).unwrap().len(), by_size + left);
    let error = with_borders(left + 1).unwrap_err().to_string();
    assert!(error.contains("/workspace") && error.contains("layer"), "{error}");
}
